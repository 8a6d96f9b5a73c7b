"""How weights learn: optimizers and learning-rate schedules, on the network's flat vectors.

Every line is an operation on all parameters at once, whatever the number of layers.

Next: checkpoint.py
"""

import math

import torch

from scene.nn.layer import view


class SGD:
    """Stochastic gradient descent with Nesterov momentum and weight decay; θ, g, v: flat vectors.

        g ← g + λ θ  (weights only)     v ← μ v + g     θ ← θ - η (g + μ v)     or, without Nesterov, θ ← θ - η v

    Source: Sutskever et al., On the Importance of Initialization and Momentum (2013), in the form torch.optim uses.
    """

    def __init__(self, network, momentum=0.9, decay=0.0, nesterov=True):
        self.network, self.momentum, self.decay, self.nesterov = network, momentum, decay, nesterov
        self.velocity = network.params.new_zeros(network.size)
        self.decayed = slice(0, network.decayed)

    def step(self, learning_rate):
        self.network.params.sub_(self.direction(), alpha=learning_rate)

    def direction(self):
        """What is taken off θ, but for the learning rate: g + μ v or v. It may be the gradients' own memory, overwritten."""
        params, grads = self.network.params, self.network.grads
        grads[self.decayed].add_(params[self.decayed], alpha=self.decay)
        torch.add(grads, self.velocity, alpha=self.momentum, out=self.velocity)
        return grads.add_(self.velocity, alpha=self.momentum) if self.nesterov else self.velocity


class Muon(SGD):
    """SGD with Nesterov momentum whose steps for weight matrices W: (O, I) are made orthogonal, and their length kept.

        W ← W - η √max(1, O/I) orthogonal(G + μ V)     W ← W √(2 O) / ‖W‖      for all weights but those of the last layer

    A few directions dominate a gradient, and momentum follows them. Made orthogonal, the step is as long in every direction that
    the gradient has: what is rare is learned as fast as what is common. A norm follows each of these layers, so the length of W
    means nothing but how far a step turns it; kept as it was at the start, steps turn it as far late as early. What is no weight (the
    norms' γ and β, biases) takes norm_rate times the learning rate.
    Source: Jordan et al., Muon: An Optimizer for Hidden Layers in Neural Networks (2024); Jordan, 94% on CIFAR-10 (2024), for the length
    and, like Page, How to Train Your ResNet (2018), for quicker biases.
    """

    def __init__(self, network, momentum=0.9, decay=0.0, norm_rate=1.0):
        super().__init__(network, momentum, decay)
        self.norm_rate = norm_rate
        *self.hidden, last = [slot for slot in network.parameter_slots if slot.declared.decay]
        self.decayed = slice(last.start, network.decayed)       # lengths that are kept need no decay, and it would turn the steps

    def step(self, learning_rate):
        super().step(learning_rate)
        for slot in self.hidden:
            w = view(self.network.params, slot)
            w.mul_((2 * len(w)) ** 0.5 / w.norm())

    def direction(self):
        update = super().direction()
        for slot in self.hidden:
            if slot.layer.closed:                                   # it has not begun to learn
                continue
            part = view(update, slot)
            rows = part.flatten(1)                                  # (O, …) -> (O, I)
            scale = max(1, len(rows) / rows.shape[1]) ** 0.5
            part.copy_(orthogonal(rows).mul_(scale).reshape(part.shape))
        update[self.network.decayed:].mul_(self.norm_rate)
        return update


def orthogonal(g, steps=3):
    """About U Vᵀ, where g = U S Vᵀ is the singular value decomposition: all singular values but the smallest become about 1.

        X ← q(X Xᵀ) X,  q(s) = a I + b s + c s²,  from X = g / ‖g‖

    takes each singular value s to a s + b s³ + c s⁵. These a, b, c multiply small ones by 3.4 a step and hold large ones at 0.7 to 1.2.
    X Xᵀ goes on by itself, S ← q(S) S q(S), and so do the factors of X; being square they are small, and the long X is met only twice.
    g: (O, I).
    Source: Jordan et al., as above; Björck, Bowie, An Iterative Algorithm for Computing the Best Estimate of an Orthogonal Matrix (1971).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    if len(g) > g.shape[1]:                         # the smaller square
        return orthogonal(g.T, steps).T
    x = g / (g.norm() + 1e-7)
    s = x @ x.T                                     # (O, I) @ (I, O) -> (O, O)
    factors = None
    for step in range(steps):
        q = torch.addmm(s, s, s, beta=b, alpha=c)
        q.diagonal().add_(a)
        factors = q if factors is None else q @ factors
        if step < steps - 1:
            s = q @ s @ q                           # q and s are both polynomials of the first s, so they commute
    return factors @ x


class Adam:
    """Adam with decoupled weight decay (AdamW); θ, g, m, v: flat vectors, t: the number of the step.

        θ ← θ - η λ θ  (weights only)     m ← β₁ m + (1 - β₁) g     v ← β₂ v + (1 - β₂) g²
        θ ← θ - η m̂ / (√v̂ + ε),  m̂ = m / (1 - β₁ᵗ),  v̂ = v / (1 - β₂ᵗ)

    Source: Kingma, Ba, Adam (2014), Algorithm 1; Loshchilov, Hutter, Decoupled Weight Decay Regularization (2017), Algorithm 2.
    """

    def __init__(self, network, betas=(0.9, 0.999), epsilon=1e-8, decay=0.0):
        self.network, self.betas, self.epsilon, self.decay = network, betas, epsilon, decay
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


def constant(t):
    """The same learning rate throughout. Schedules map the share of training that is done, t in 0…1, to a factor."""
    return 1.0


def cosine(t):
    """From 1 down to 0 along half a cosine. Source: Loshchilov, Hutter, SGDR (2016), §3."""
    return (1 + math.cos(math.pi * t)) / 2


def one_cycle(t, warm_up=0.1):
    """Up from 1/25 to 1 while t < warm_up, then down to 0, both in a straight line.

    Source: Smith, Topin, Super-Convergence (2017), §3, with a shorter way up.
    """
    if t < warm_up:
        return 1 / 25 + 24 / 25 * t / warm_up
    return (1 - t) / (1 - warm_up)
