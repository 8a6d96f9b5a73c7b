"""How weights learn: optimizers and learning-rate schedules, on the network's flat vectors.

Every line is an operation on all parameters at once, whatever the number of layers.

Next: train.py
"""

import math


class SGD:
    """Stochastic gradient descent with Nesterov momentum and weight decay; θ, g, v: flat vectors.

        g ← g + λ θ  (weights only)     v ← μ v + g     θ ← θ - η (g + μ v)     or, without Nesterov, θ ← θ - η v

    Source: Sutskever et al., On the Importance of Initialization and Momentum (2013), in the form torch.optim uses.
    """

    def __init__(self, network, momentum=0.9, decay=0.0, nesterov=True):
        self.network, self.momentum, self.decay, self.nesterov = network, momentum, decay, nesterov
        self.velocity = network.params.new_zeros(network.size)

    def step(self, learning_rate):
        params, grads, n = self.network.params, self.network.grads, self.network.decayed
        grads[:n].add_(params[:n], alpha=self.decay)
        self.velocity.mul_(self.momentum).add_(grads)
        if self.nesterov:
            params.sub_(grads, alpha=learning_rate)
            params.sub_(self.velocity, alpha=learning_rate * self.momentum)
        else:
            params.sub_(self.velocity, alpha=learning_rate)


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


def one_cycle(t, warm_up=0.25):
    """Up from 1/25 to 1 while t < warm_up, then down to 0, both along half a cosine.

    Source: Smith, Topin, Super-Convergence (2017), §3, with cosines in place of straight lines.
    """
    if t < warm_up:
        return 1 - (1 - 1 / 25) * cosine(t / warm_up)
    return cosine((t - warm_up) / (1 - warm_up))
