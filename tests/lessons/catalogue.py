"""The twelve lessons: what to write, where Scene has it, what to read, and three hints for each."""

from typing import NamedTuple


class Lesson(NamedTuple):
    """An exercise. Formulas are not here: skeleton.py takes them from the docstrings of Scene."""

    name: str               # what the learner types, and the name of their file
    evening: int
    title: str
    source: str             # the file of Scene that holds the solution
    write: tuple            # what to write, in the order in which it is judged: ("ReLU.forward", …)
    task: str               # what to know before writing
    reading: str            # a file and its heading
    hints: tuple            # from the vaguest to the clearest; none is a line of the solution
    needs: tuple = ()       # more names of the source that are imported for the learner
    keeps: tuple = ("__init__",)       # the methods that are given
    derived: bool = False   # whether the class derives from Scene's, and replaces only what is to be written
    until_loop: bool = False    # whether the function is given up to its first loop


TRAINING = """\
forward is called with training=True if backward follows. Only then does it keep on self what backward will
need: a prediction keeps nothing."""
PARAMETERS = TRAINING + """
The network owns the parameters: self.w and self.b are there when forward is called, and self.dw and
self.db when backward is. Write gradients into these arrays (self.dw[...] = …), since the optimizer
reads them there. self.dw = … would make another array. Always return dx: needs_dx only saves time."""

LESSONS = [
    Lesson(
        "relu", 1, "ReLU", "scene/nn/activation.py", ("ReLU.forward", "ReLU.backward"),
        TRAINING + " Your ReLU need not care about NaN.",
        "scene/nn/layer.py, the docstring at the top",
        ("No loop is needed: torch has elementwise operations that limit an array from below.",
         "For a single number: if x grows a little, how much does y grow? That factor multiplies dy.",
         "Keep x or y in forward: either one tells backward which numbers passed. Comparing an array gives "
         "booleans, and multiplying by a boolean is multiplying by 0 or 1. What is right at exactly 0?")),
    Lesson(
        "linear", 1, "Linear", "scene/nn/linear.py", ("Linear.forward", "Linear.backward"),
        PARAMETERS,
        'scene/nn/README.md, "Linear, by the chain rule"',
        ("Write the shapes beside each product. (N, I) and (O, I) must give (N, O): which one is transposed?",
         "dx has the shape of x, and dw that of w. Both are products of dy and one other array, and only one "
         "product fits each shape.",
         "b is added to the row of every photo, so its gradient collects something from every photo. Along "
         "which axis of dy do the photos lie? And what must forward keep for dw?")),
    Lesson(
        "cross_entropy", 2, "Softmax with cross-entropy", "scene/nn/loss.py",
        ("softmax", "CrossEntropy.forward", "CrossEntropy.backward"),
        """\
self.smoothing is ε, and t is the one-hot table: 1 in the column of each photo's class, else 0.
one_hot(labels, z) makes it. backward takes no argument: the backward pass starts at the loss.""",
        'scene/nn/README.md, "Softmax with cross-entropy"',
        ("In softmax, keep the axis of K in the maximum and in the sum, with length 1: (N, 1) combines with "
         "(N, K).",
         "The logarithm of a p that has underflowed to 0 is -inf. The derivation has a formula for log p "
         "that never computes p, and torch has log Σ exp as one operation.",
         "Everything that dz consists of is known in forward, so it can be computed there and kept. Check "
         "that both L and dz are divided by N, and by nothing else."),
        needs=("one_hot",)),
    Lesson(
        "residual", 2, "Residual", "scene/nn/layer.py", ("Residual.forward", "Residual.backward"),
        """\
self.body and self.shortcut are layers: call their forward, with the same `training`, and their backward.
self.shortcut may be None.""",
        'scene/nn/README.md, "Linear, by the chain rule"',
        ("x takes two ways to y. Without a shortcut layer, the second way changes nothing.",
         "A sum hands the same dy to each of its terms. Each way then has a backward of its own.",
         "x reaches the loss on both ways, and the contributions of all ways add up. Add into a new array: "
         "+= would write into an array that belongs to another layer."),
        keeps=("__init__", "walk")),
    Lesson(
        "gradient_check", 3, "A gradient check", "tests/differences.py", ("slope", "wrong_gradients"),
        """\
layer is a layer of Scene, ready to use. layer.parameters is a dictionary whose keys are the names of its
parameters. For "w", the array is layer.w and its gradient layer.dw: getattr(layer, "d" + name).""",
        'tests/README.md, "How"; then tests/oracle.py',
        ("slope: change one number of x at a time, by h up and by h down, and call f both times. A loop over "
         "all its places is fine. Put the number back as it was: (x + h) - h need not be x.",
         "wrong_gradients: for a fixed dy, L = Σ y dy is a number that depends on x and on every parameter. "
         "So slope can be applied to each of them. Which array does forward read when w is changed?",
         "torch.allclose allows for the rounding that dividing by 2h magnifies, if you give it a tolerance. "
         "A gradient that backward never wrote must not pass by accident: what could you put there before "
         "the call?")),
    Lesson(
        "training_loop", 3, "A whole training loop", "scene/learn/bare.py", ("run",),
        """\
Everything up to the loop is there. Write the loop: ten epochs, each of which shows every photo once, in a
new random order (from `randomness`) and in `batches` batches. A step is plain gradient descent with a
learning rate of 0.05. After each epoch, test: compute the scores of all test photos at once, without
training, and print the share of them that is classified correctly. What you print is shown, not judged.""",
        'scene/README.md, "Training in twenty lines"; then close it',
        ("Two loops, one inside the other: over epochs, and over batches. torch.randperm makes a random "
         "order, and tensor_split cuts it into pieces.",
         "A batch takes four lines: scores, loss, backward, step. backward of the network starts from what "
         "backward of the loss returns.",
         "The step changes network.params in place, against network.grads. In the test, the answer for a "
         "photo is the class with the largest score."),
        until_loop=True),
    Lesson(
        "im2col", 4, "Convolution as a product (im2col)", "scene/nn/conv.py",
        ("Conv2d.patches", "Conv2d.gather"),
        """\
The class derives from Scene's Conv2d, whose forward and backward call your two methods. self.kernel,
self.stride and self.padding are numbers. For each position (i, j) in the kernel, self.places(h, w) yields
i, j and the slices of rows and columns of the padded image that lie under it in all windows. h and w are
the sides of the image without padding. self.output_size(h, w) is (H', W').""",
        'scene/nn/README.md, "The convolution as a matrix product: im2col"',
        ("Pad first: zeros with p more rows and columns on each side, and x in the middle. Afterwards no "
         "window is special.",
         "Loop over the positions in the kernel, not over windows: k·k steps, each of which copies one pixel "
         "of every window. Use an array with separate axes for windows, i, j and channels, and reshape it "
         "last.",
         "gather does the steps of patches backwards: reshape, then for each position add what came from "
         "there, then cut off the border. Windows overlap: that is why it adds."),
        keeps=(), derived=True),
    Lesson(
        "max_pool", 4, "MaxPool", "scene/nn/pool.py", ("MaxPool2d.forward", "MaxPool2d.backward"),
        TRAINING + "\nWindows may overlap (stride < kernel) or leave pixels out (stride > kernel).",
        'scene/nn/README.md, "The convolution as a matrix product: im2col", its picture of windows',
        ("Loop over the k·k positions in a window, not over pixels: a strided slice of x has the pixels at "
         "one position of every window.",
         "y is the elementwise maximum of these slices. There are H' rows of windows, so a slice of rows "
         "ends at i + s·H' or before.",
         "In backward, go through the positions in reading order. A pixel that equals y takes all that is "
         "left of dy for its window, so later ties find nothing. Where windows overlap, a pixel may take "
         "several times.")),
    Lesson(
        "batch_norm", 5, "BatchNorm", "scene/nn/norm.py", ("BatchNorm.forward", "BatchNorm.backward"),
        PARAMETERS + """
self.mean and self.var are the running averages. Move them in place, too, and only in training.""",
        'scene/nn/README.md, "BatchNorm\'s dx"',
        ("Seen as (M, C), every sum is over the first axis. Training uses the batch's own mean and variance, "
         "and evaluation the running ones.",
         "There are two variances: x̂ divides by M, the running one by M - 1. torch's var has an argument "
         "for that.",
         "Compute dβ and dγ first: dx contains both. Keep x̂ and √(σ² + ε) in forward, since backward needs "
         "no more than these, γ and dy.")),
    Lesson(
        "momentum", 5, "Momentum", "scene/learn/optim.py", ("SGD.direction", "SGD.step"),
        """\
network.params and network.grads are flat vectors of all parameters and gradients. The weights, which are
decayed, come first. The optimizer may overwrite the gradients. params must change in place.""",
        'scene/README.md, "From layers to a network that learns"; the class Network in scene/nn/layer.py',
        ("There are no layers here: θ, g and v are three vectors of the same length.",
         "Decay belongs to the gradient, before the velocity sees it, and only to the part of the vectors "
         "that __init__ keeps as a slice.",
         "The new velocity is used in the very same step. With Nesterov the step looks ahead: it goes along "
         "the gradient plus a further share of the velocity.")),
    Lesson(
        "winograd", 6, "Winograd F(2, 3)", "scene/nn/winograd.py", ("polynomial", "cook_toom"),
        """\
tile is the number of outputs: F(2, 3) is cook_toom(2). The points are those of POINTS[tile], and ∞ comes
last, so P = tile + 2. Return Bᵀ, G and A as lists of rows, not as tensors. Your matrices are then
put into Scene's WinogradConv2d.""",
        'scene/nn/README.md, "Winograd: fewer multiplications"',
        ("polynomial: begin with the constant 1, and multiply by one (x - root) at a time. Multiplying by x "
         "moves every coefficient up one place.",
         "Every point has a row in each of the three: its powers in A, its powers divided by a product of "
         "differences in G, and in Bᵀ the polynomial that is 0 at all other finite points.",
         "At ∞ only the leading coefficient counts, which makes two of its rows very simple. Its row of Bᵀ "
         "is 0 at every finite point. Compare tile 2 with the numbers in the derivation."),
        needs=("POINTS",)),
    Lesson(
        "muon", 6, "Muon", "scene/learn/optim.py", ("orthogonal", "Muon.direction", "Muon.step"),
        """\
self.hidden has a slot for each weight matrix that gets orthogonal steps. view(vector, slot) is its part of
a flat vector, in the weight's shape. descend(params, direction, rate) takes a step. You may ignore
`resting`. The numbers a, b and c are in the derivation.""",
        'scene/nn/README.md, "Muon\'s polynomial"',
        ("orthogonal: apply the polynomial of a matrix in the derivation `steps` times. The plain loop is "
         "right, only slower than Scene's.",
         "direction: begin with the direction of SGD, which has momentum and decay. Then replace the part of "
         "every hidden weight. A convolution's weight has four axes: flatten all but the first.",
         "Norms and biases are what lies behind network.decayed. In step, after descending, each hidden "
         "weight goes back to its length, in place: compute the factor from its present length."),
        needs=("view", "descend")),
]

NAMES = [lesson.name for lesson in LESSONS]


def find(name):
    """The lesson of this name, or None. Case, and - for _, do not matter."""
    name = name.lower().replace("-", "_").removesuffix(".py")
    return next((lesson for lesson in LESSONS if lesson.name == name), None)
