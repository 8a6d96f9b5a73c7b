"""A training run, from the options of the command to a model file.

Next: ../answer/metrics.py
"""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from scene import files, memory, processes
from scene.answer import metrics, modelfile
from scene.answer.calibration import PROMISE
from scene.answer.classifier import Classifier
from scene.errors import UserError, explain, printable
from scene.learn import recipe
from scene.learn.calibrate import calibrate, evaluate, hold_out, measure, reference, subset
from scene.learn.check import NetworkError, check
from scene.models import MODES
from scene.nn.loss import softmax
from scene.photos.cache import make_cache
from scene.photos.pixels import Rows
from scene.photos.sets import load_test
from scene.signals import Stopped

LESS_MEMORY = "A new run in another --output needs less memory with a smaller --batch-size or --image-size."


def keep_out(photos, options):
    """Photos to train on, and others held out for calibration, or None of few photos, or if folds do that."""
    if options.folds:
        return photos, None
    if options.held_out:
        how = options.image_size, options.skip_bad, make_cache(options)
        return photos, load_test(options.held_out, photos.classes, *how)[0]
    photos, held = hold_out(photos, options.seed or 0)
    if held:
        print(f"Held out for calibration: {len(held.labels)} photos. Trained on: the other "
              f"{len(photos.labels)}.")
    return photos, held


def train_and_save(photos, held, watched, teacher, options, output):
    """Trains a network and writes its model file: -> the Classifier in that file, how it was made, and folds.

    held: Photos that it is calibrated on, or None. watched: Photos for the learning curves, or None. With
    --folds, answers to all photos come first, by networks of which each was not trained on its photos:
    "cross_validation", and their probabilities (N, K) are returned, too, or else None. If the model is
    already there, written by the same run, nothing is trained.
    """
    from scene.learn.checkpoint import Checkpoint, describe
    from scene.learn.precision import fastest

    network = make_network(options, len(photos.classes), teacher)
    about = {"started_from": teacher.started_from} if teacher else {}
    about |= {"distilled_from": photos.distilled_from} if photos.distilled_from else {}
    about |= {"terms": options.terms} if options.terms else {}
    card = modelfile.make_card(network, options.mode, photos.classes, **about)
    if options.precision == "auto":
        options.precision = fastest(options.device)
    settings = make_settings(options, photos, trained=bool(teacher))
    check_network(network, card, settings)
    if options.minutes and not options.head_only:
        spare = make_network(options, len(photos.classes), teacher)
        settings = replace(settings, epochs=find_epochs(spare, photos, settings, options, output))
    shown = {"mode": options.mode, "image_size": options.image_size, **vars(settings)}
    if options.widths:
        shown["widths"] = options.widths
    if settings.epochs:
        say_settings(shown, photos, least_loss(photos, settings.loss))

    made = {"settings": shown, "run": describe(options.mode, network, photos, settings, teacher)}
    checkpoint = Checkpoint(output.checkpoint, made["run"])
    if options.resume and not output.unfinished:
        finished = find_finished(output, made["run"])
        if finished:
            kept = {name: finished[name] for name in ("history", "cross_validation") if name in finished}
            return recalibrated(photos, held, options, output), made | kept, None
    if settings.epochs == 0:
        say_head(photos, settings.balanced, options.head_only)
    out_of_fold = None
    if options.folds:
        held = validate(photos, settings, teacher, card, options, output, made["run"])
        out_of_fold = softmax(held.scores)
        made["cross_validation"] = {"folds": options.folds,
                                    **metrics.evaluate(held.labels, out_of_fold, photos.classes)}
    with saving_diverged(network, card, checkpoint, output):
        network, history = fit(network, photos, settings, teacher, card, options, checkpoint, watched)
    classifier = write_model(network, card, photos, held, options, output)
    if options.folds:
        made["cross_validation"]["calibration"] = evaluate(held, classifier.calibration)
    names = "loss", "accuracy", "held_out_loss", "held_out_accuracy"
    epochs = [{"epoch": i, **dict(zip(names, each, strict=False))} for i, each in enumerate(history, 1)]
    return classifier, made | {"history": epochs}, out_of_fold


def fit(network, photos, settings, teacher, card, options, checkpoint=None, watched=None):
    """Trains a network on photos: from nothing, or from the teacher's layers and a head in closed form.

    Without epochs, the head is all. watched: Photos on which the network is only measured, after each epoch.
    Returns the trained network, and its history.
    """
    import torch

    from scene.learn.head import with_head
    from scene.learn.loop import train

    if settings.epochs == 0 and checkpoint:
        checkpoint.load()                           # raises for that of another run, which is not to be lost
    source = None
    if teacher:
        source = make_network(options, len(photos.classes), teacher)
        fine_tuned = settings.epochs > 0
        with_head(source, teacher, photos.pixels, photos.labels, card, settings.balanced, fine_tuned)
    if settings.epochs == 0:
        return source, []
    pixels, labels = in_torch(photos, options.device)
    held_out = watched and in_torch(watched)
    team = choose_team(network, photos, settings, options)
    soft = None if photos.soft is None else torch.from_numpy(photos.soft).to(options.device)
    return network, train(network, pixels, labels, settings, source, checkpoint, held_out, team, soft)


def choose_team(network, photos, settings, options):
    """What computes the gradients, for `train`: the cores of this machine, or all processes of torchrun."""
    if options.cluster:
        return options.cluster.lead(options.mode, network, settings, photos)
    from scene.learn.team import make_team

    return make_team


def in_torch(photos, device="cpu"):
    """The pixels and labels of Photos, for torch."""
    import torch

    return Rows(photos.pixels).to_torch(device), torch.from_numpy(photos.labels).to(device)


def write_model(network, card, photos, held, options, output):
    """Writes the model file of a trained network, calibrated if photos were held out: -> its Classifier."""
    data = modelfile.encode(network, card)
    if held:
        found = calibrate(Classifier.load(data), photos, held, options.error or PROMISE)
        data = modelfile.encode(network, card | {"calibration": found})
    output.keep_previous(data)
    files.write(output.model, data)
    return Classifier.open(output.model)            # the test asks the file that will be deployed


def recalibrated(photos, held, options, output):
    """The Classifier of a finished run, calibrated again if photos were held out: --error may be another."""
    with open(output.model, "rb") as file:
        network, card = modelfile.load(file.read())
    if held:
        card.pop("calibration", None)
    return write_model(network, card, photos, held, options, output)


def least_loss(photos, loss):
    """The smallest possible loss: of soft labels, the mean of their entropies."""
    from scene.learn.loop import LOSSES

    if photos.soft is not None:
        return float(-(photos.soft * np.log(photos.soft)).sum(1).mean())
    return LOSSES[loss]().least(len(photos.classes))


def say_settings(settings, photos, least):
    """Prints the settings, {name: value}, and the smallest possible loss unless it is 0."""
    words = [f"{name.replace('_', ' ')} {value}" for name, value in settings.items()]
    print(f"Settings: {', '.join(words)}", flush=True)
    if settings["balanced"]:
        say_uneven(photos, "training shows each class equally often")
    if least:
        how = "smoothed" if photos.soft is None else "soft"
        print(f"Labels are {how}, so the smallest possible loss is {least:.2f}.", flush=True)


def say_head(photos, balanced, asked):
    """Prints why only the head is trained, unless that was asked for."""
    if not asked:
        average = len(photos.labels) / len(photos.classes)
        print(f"Only the last layer is trained, the default with fewer than {recipe.FINE_TUNING_PHOTOS} "
              f"training photos per class (here {average:.0f} on average). To train all layers: "
              f"--epochs {recipe.FINE_TUNING_EPOCHS}.", flush=True)
    if balanced:
        say_uneven(photos, "each class counts equally")


def say_uneven(photos, remedy):
    """Prints that the classes differ in their numbers of photos, and what is done about it."""
    counts = np.bincount(photos.labels)
    most, least = (f"{printable(photos.classes[k])} {counts[k]}" for k in (counts.argmax(), counts.argmin()))
    print(f"Classes are uneven, from {least} to {most} photos, so {remedy}.", flush=True)


def find_epochs(network, photos, settings, options, output):
    """The number of epochs for --minutes: that of the run to resume, or as many as fit. Says how many."""
    from scene.learn.checkpoint import read
    from scene.learn.minutes import plan_epochs

    if options.resume:
        runs = [read(path)[0]["run"] for path in output.unfinished]
        if not runs and (finished := output.finished()):
            runs = [finished["settings"]]
        if runs and runs[0]["epochs"]:                          # a head has none
            return runs[0]["epochs"]
    seconds = 60 * options.minutes / (options.folds or 1)       # K folds of (K-1)/K photos, and one of all
    team = choose_team(network, photos, settings, options)
    epochs, each = plan_epochs(network, *in_torch(photos, options.device), settings, seconds, team=team)
    each *= options.folds or 1
    over = f", longer than --minutes {options.minutes:g}" if each > 60 * options.minutes else ""
    print(f"An epoch takes about {each:.2g} s{over}. The same run again: --epochs {epochs} instead of "
          "--minutes.", flush=True)
    return epochs


def validate(photos, settings, teacher, card, options, output, run):
    """All photos as Measured by a cross-validation."""
    from scene.learn.checkpoint import Checkpoint
    from scene.learn.folds import cross_validate

    def ask(asked):
        chosen, others = (subset(photos, part) for part in (~asked, asked))
        network = make_network(options, len(photos.classes), teacher)
        network, _ = fit(network, chosen, settings, teacher, card, options)
        classifier = Classifier.load(modelfile.encode(network, card))
        return measure(classifier, reference(classifier, chosen), others)

    checkpoint = Checkpoint(output.folds, run | {"folds": options.folds})
    measured = cross_validate(photos, options.folds, settings.seed, ask, checkpoint)
    print(f"The folds are done. Now a network is trained on all {len(photos.labels)} photos.", flush=True)
    return measured


def find_finished(output, run):
    """The report of the finished run that wrote the model in --output, if it is this run, or None."""
    from scene.learn.checkpoint import compare

    report = output.finished()
    if not report:
        return None
    if differences := compare(report["run"], run):
        print(f"Note: {printable(output.model)} is of another run ({'; '.join(differences)}), so training "
              "starts from the beginning.", flush=True)
        return None
    print(f"This run is finished, and {printable(output.model)} is its model: nothing is trained.",
          flush=True)
    return report


@contextmanager
def saving_diverged(network, card, checkpoint, output):
    """Writes the last good weights as a model if the training in the block diverges."""
    from scene.learn.progress import Diverged

    try:
        yield
    except Diverged as error:
        if not checkpoint.restore(network):         # somebody has deleted it
            raise
        modelfile.save(output.diverged, network, card)
        checkpoint.remove()
        raise Diverged(f"{error} The last good weights are in {printable(output.diverged)}, a model file "
                       "like any other.") from error


@contextmanager
def resumable(output, how):
    """Adds to the message of an error or stop signal how to continue the run.   how: what --resume does."""
    try:
        yield
    except Exception as error:
        advice = f" The same command with --resume {how}." if output.unfinished else ""
        if memory.is_exhausted(error):
            text = f"{memory.describe(error)} Close other programs.{advice} {LESS_MEMORY}"
            raise UserError(text) from error
        if isinstance(error, processes.PeerLost):
            raise UserError(f"{error}{advice}") from error
        if isinstance(error, processes.WorkerKilled):
            raise UserError(f"{error}{advice} {LESS_MEMORY}") from error
        if isinstance(error, OSError):
            raise UserError(f"{explain(error)}{advice}") from error
        if not isinstance(error, UserError):
            error.add_note(advice.strip())
        raise
    except Stopped as error:
        if str(error) != Stopped.MESSAGE or not output.unfinished:
            raise
        raise Stopped(error.number, f"{error} The same command with --resume {how}.") from error


def make_network(options, classes, teacher):
    """A new network of the chosen mode, with the architecture of the teacher if there is one."""
    architecture = (teacher.network.architecture if teacher else {}) | {"image_size": options.image_size}
    if options.widths:
        architecture |= dict.fromkeys(MODES[options.mode].widths, options.widths)
    return MODES[options.mode].network(classes, **architecture)


def check_network(network, card, settings):
    """Raises NetworkError unless the network can be trained, and its model file opened again."""
    check(network, settings, len(card["classes"]))
    try:
        modelfile.check(network, card)
    except modelfile.ModelFileError as error:
        raise NetworkError(f"{card['mode']} cannot be trained, since its model file could not be "
                           f"read back: {error}.") from error


def make_settings(options, photos, trained):
    """The settings of a run: the options that are given, and the defaults for the others.

    With very few photos only the head of a trained network is trained, unless an option asks for more.
    """
    settings = recipe.defaults(MODES[options.mode], len(photos.labels), trained, photos.soft is not None)
    settings["balanced"] = recipe.is_uneven(np.unique(photos.labels, return_counts=True)[1])
    names = recipe.Settings.__dataclass_fields__
    given = {name: value for name, value in vars(options).items() if name in names and value is not None}
    more = {"learning_rate", "loss"} & given.keys() or options.minutes or options.distill
    mode = MODES[options.mode]
    if trained and not more and recipe.is_head_enough(mode, len(photos.labels), len(photos.classes)):
        settings["epochs"] = 0
    if options.head_only:
        given["epochs"] = 0
    return recipe.Settings(**settings | given)
