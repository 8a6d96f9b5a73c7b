"""Optimizers and learning-rate schedules, on the network's flat vectors.

Every line is an operation on all parameters at once, however many layers there are.

Next: loop.py
"""

import math

import torch

from scene.nn.layer import view


class SGD:
    """Stochastic gradient descent with Nesterov momentum and weight decay, on flat vectors θ, g, v.

        g ← g + λ θ  (weights only)     v ← μ v + g     θ ← θ - η (g + μ v)     (without Nesterov: θ - η v)

    Source: Sutskever et al., On the Importance of Initialization and Momentum (2013), in torch.optim's form.
    """

    def __init__(self, network, momentum=0.9, decay=0.0, nesterov=True):
        self.network = network
        self.momentum = momentum
        self.decay = decay
        self.nesterov = nesterov
        self.velocity = network.params.new_zeros(network.size)
        self.decayed = slice(0, network.decayed)

    def step(self, learning_rate):
        descend(self.network.params, self.direction(), learning_rate)

    def direction(self):
        """The direction of the step, g + μ v or v. With Nesterov, it overwrites the gradients."""
        params = self.network.params
        grads = self.network.grads
        if self.decay:
            grads[self.decayed].add_(params[self.decayed], alpha=self.decay)
        torch.add(grads, self.velocity, alpha=self.momentum, out=self.velocity)
        return grads.add_(self.velocity, alpha=self.momentum) if self.nesterov else self.velocity


class Muon(SGD):
    """SGD with Nesterov momentum, with orthogonal steps for weight matrices of constant length.

        W ← W - η √max(1, O/I) orthogonal(G + μ V)     W ← W √(2 O) / ‖W‖      except in the last layer

    W: (O, I). A few directions dominate a gradient, and momentum follows them. An orthogonal step is equally
    long in every direction that the gradient has, so rare features are learned as fast as common ones. A norm
    follows each of these layers, so the length of W only decides how far a step turns it. It stays as it was
    at the start, so that late steps turn W as far as early ones. Biases, and γ and β of norms, take norm_rate
    times the learning rate.
    Source: Jordan et al., Muon: An Optimizer for Hidden Layers in Neural Networks (2024); Jordan, 94% on
    CIFAR-10 (2024), for the length and, like Page, How to Train Your ResNet (2018), for quicker biases.
    """

    def __init__(self, network, momentum=0.9, decay=0.0, norm_rate=1.0):
        super().__init__(network, momentum, decay)
        self.norm_rate = norm_rate
        *self.hidden, last = [slot for slot in network.parameter_slots if slot.declared.decay]
        self.decayed = slice(last.start, network.decayed)   # the last only: the others keep their length

    def step(self, learning_rate, resting=()):
        """resting: layers without gradients, whose steps need not be made orthogonal."""
        descend(self.network.params, self.direction(resting), learning_rate)
        for slot in self.hidden:
            w = view(self.network.params, slot)
            w.mul_((2 * len(w)) ** 0.5 / w.norm())

    def direction(self, resting=()):
        update = super().direction()
        for slot in self.hidden:
            if slot.layer in resting:
                continue
            part = view(update, slot)
            rows = part.flatten(1)                                  # (O, …) -> (O, I)
            scale = max(1, len(rows) / rows.shape[1]) ** 0.5
            part.copy_(orthogonal(rows).mul_(scale).reshape(part.shape))
        update[self.network.decayed:].mul_(self.norm_rate)
        return update


def descend(params, direction, rate):
    """θ ← θ - η d, in place. A CUDA graph freezes a rate that is a number, and reads one that is a tensor."""
    if isinstance(rate, torch.Tensor):
        params.addcmul_(direction, rate, value=-1)
    else:
        params.sub_(direction, alpha=rate)


def orthogonal(g, steps=3):
    """About U Vᵀ of the singular value decomposition g = U S Vᵀ: all but the smallest of S become about 1.

        X ← q(X Xᵀ) X,  q(s) = a I + b s + c s²,  from X = g / ‖g‖

    takes each singular value s to a s + b s³ + c s⁵. These a, b, c multiply small values by 3.4 a step and
    hold large ones between 0.7 and 1.2. A = X Xᵀ can be iterated without X, A ← q(A) A q(A), and so can the
    product of the factors q. These matrices are square and small. The long X is used only at the beginning
    and the end.   g: (O, I).
    Source: Jordan et al., as above; Björck, Bowie, An Iterative Algorithm for Computing the Best Estimate of
    an Orthogonal Matrix (1971).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    if len(g) > g.shape[1]:                         # gᵀ g is the smaller square
        return orthogonal(g.T, steps).T
    x = g / (g.norm() + 1e-7)
    s = x @ x.T                                     # (O, I) @ (I, O) -> (O, O)
    factors = None
    for step in range(steps):
        q = torch.addmm(s, s, s, beta=b, alpha=c)
        q.diagonal().add_(a)
        factors = q if factors is None else q @ factors
        if step < steps - 1:
            s = q @ s @ q                           # polynomials of the first s, so they commute
    return factors @ x


class Adam:
    """Adam with decoupled weight decay (AdamW), on flat vectors θ, g, m, v. t is the number of the step.

        θ ← θ - η λ θ  (weights only)     m ← β₁ m + (1 - β₁) g     v ← β₂ v + (1 - β₂) g²
        θ ← θ - η m̂ / (√v̂ + ε),  m̂ = m / (1 - β₁ᵗ),  v̂ = v / (1 - β₂ᵗ)

    Source: Kingma, Ba, Adam (2014), Algorithm 1; Loshchilov, Hutter, Decoupled Weight Decay Regularization
    (2017), Algorithm 2.
    """

    def __init__(self, network, betas=(0.9, 0.999), epsilon=1e-8, decay=0.0):
        self.network = network
        self.betas = betas
        self.epsilon = epsilon
        self.decay = decay
        self.mean = network.params.new_zeros(network.size)
        self.square = network.params.new_zeros(network.size)
        self.steps = 0

    def step(self, learning_rate):
        params, grads, (beta1, beta2) = self.network.params, self.network.grads, self.betas
        self.steps += 1
        params[:self.network.decayed].mul_(1 - learning_rate * self.decay)
        self.mean.lerp_(grads, 1 - beta1)
        self.square.mul_(beta2).addcmul_(grads, grads, value=1 - beta2)
        root = (self.square / (1 - beta2 ** self.steps)).sqrt_().add_(self.epsilon)
        params.addcdiv_(self.mean, root, value=-learning_rate / (1 - beta1 ** self.steps))


def cosine(t):
    """Falls from 1 to 0 along half a cosine. A schedule maps t, the share of training done, to a factor.

    Source: Loshchilov, Hutter, SGDR (2016), §3.
    """
    return (1 + math.cos(math.pi * t)) / 2


def one_cycle(t, warm_up=0.1):
    """Rises from 1/25 to 1 while t < warm_up, then falls to 0, both linearly.

    Source: Smith, Topin, Super-Convergence (2017), §3, with a shorter warm-up.
    """
    if t < warm_up:
        return 1 / 25 + 24 / 25 * t / warm_up
    return (1 - t) / (1 - warm_up)
