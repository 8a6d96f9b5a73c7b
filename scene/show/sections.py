"""The report's sections on the network as a whole. Each is a function of the Material, and returns markup.

A sentence says what a chart shows before the chart does, for readers who know nothing of networks.

Next: gallery.py
"""

from __future__ import annotations

from scene.answer.calibration import expected_calibration_error, reliability
from scene.learn.recipe import DISTILLATION
from scene.show import charts, matrix
from scene.show.charts import percent, photos
from scene.show.markup import Markup, join, lead, note, scrolled, section, series, strong, tag, unfold
from scene.show.material import COMMON, Material
from scene.show.pictures import SMALL, short

NARROW = 30             # classes whose matrix leaves room beside it
FEWEST = 20             # photos that tell anything about reliability
FLAT = 0.02             # a gain in accuracy over the last eighth of the epochs that does not count
LEARNED_BY_HEART = 0.1  # a gap between the accuracies on training and test photos
MOST_ROWS = 1000        # classes in the tables of figures, at most
FEW_ROWS = 30           # classes that one table shows. Of more, it shows
WEAKEST = 10            # so many, and a second table has the others
CALIBRATED = 0.03       # a gap between what the network says and what is true


def result(m: Material) -> Markup:
    """The accuracy, in a sentence that needs no statistics, and where to look first."""
    report = m.metrics
    low, high = report["interval"]
    right, total = int(m.right.sum()), len(m.labels)
    among = [f"{percent(report[name], 1)}, the right class is among its {number} likeliest"
             for name, number in (("top3", "three"), ("top5", "five")) if report.get(name) is not None]
    likeliest = f" For {'; for '.join(among)}." if among else ""
    return tag(
        "header",
        tag("p", "Scene", tag("span", f"{report['mode']}, {len(m.classes)} classes"), class_="kicker"),
        tag("h1", "It puts ", tag("em", in_words(right, total)), " into the right class"),
        lead(f"The network was tested on {photos(total)} that it had not been trained on, and put ",
             strong(f"{right} of them into the right class"), f", which is {percent(right / total, 1)}. "
             f"On other photos like these, expect between {percent(low, 1)} and {percent(high, 1)}. "
             f"Always answering with the most common class would be right for "
             f"{percent(report['baseline'], 1)}.{likeliest}"),
        charts.interval(right / total, low, high, report["baseline"]), leak(report), first_look(m),
        id="result")


def in_words(right: int, total: int) -> str:
    """804 of 1000 -> "8 of 10 photos", where that is true to a hundredth, and else "80 of 100 photos"."""
    if right in (0, total):
        return "every photo" if right else "no photo"
    for whole in (10, 20, 100):
        n = round(right / total * whole)
        if 0 < n < whole and abs(n / whole - right / total) <= 0.0101:
            return f"{n} of {whole} photos"
    return "almost every photo" if right > total / 2 else "almost no photo"


LEAKS = {
    "leaks": ("is also a training photo", "are also training photos"),
    "near_leaks": ("is a near-copy of a training photo", "are near-copies of training photos"),
}


def leaks(report) -> list[str]:
    """How many photos of TEST are in TRAIN too, or nearly the same photos, in words."""
    return [f"{count} of the {report['photos']} test photos {one if count == 1 else more}"
            for name, (one, more) in LEAKS.items() if (count := report.get(name))]


def leak(report) -> Markup | None:
    """A warning that the accuracy is too high, if there are `leaks`."""
    said = leaks(report)
    if not said:
        return None
    return tag("p", strong("This accuracy is too high. "), *series(said), ". Keep each photo in only one of "
               "the two folders, and train again.", class_="alert", role="note")


def first_look(m: Material) -> Markup | None:
    """Three things to look at first, as links."""
    parts = []
    if m.confusions:
        rows = [tag("li", tag("a", strong(m.classes[i]), " taken for ", strong(m.classes[j]),
                              href=f"#{matrix.key(i, j)}"), tag("span", photos(count)))
                for count, i, j in m.confusions[:3]]
        parts.append(tag("div", tag("h2", "Most common confusions"), tag("ol", rows)))
    suspect = m.suspects[0] if m.suspects else None
    if suspect:
        others = f", and {len(m.suspects) - 1} more" if len(m.suspects) > 1 else ""
        parts.append(pick("Perhaps in the wrong folder", suspect.among, suspect.photo,
                          f"looks like {m.classes[suspect.seems]}{others}", "#labels"))
    seen = suspect.photo if suspect and suspect.among is m.test else None
    if wrong := [i for i in m.mistakes if i != seen]:           # another photo than the suspect
        i = wrong[0]
        parts.append(pick("A mistake to look at", m.test, i,
                          f"{percent(m.sure[i])} sure of {m.classes[m.answers[i]]}", "#mistakes"))
    return tag("div", parts, class_="first") if parts else None


def pick(title, among, i, words, link):
    """A photo with a few words, as a link."""
    return tag("div", tag("h2", title), tag(
        "a", among.pictures.picture(i, SMALL),
        tag("span", strong(short(among.paths[i])), tag("br"), words), href=link, class_="pick"))


def learning(m: Material) -> Markup | None:
    """The learning curves."""
    history = m.metrics.get("history") or []
    if len(history) < 2:
        return None

    def curves(key):
        lines = [("training", [epoch[key] for epoch in history], "train")]
        if f"held_out_{key}" in history[-1]:
            lines.append(("held out", [epoch[f"held_out_{key}"] for epoch in history], "held"))
        return lines

    losses = curves("loss")
    highest = max(value for _, values, _ in losses for value in values[1:])
    accuracy = charts.curves("Share of right answers by epoch", curves("accuracy"), 1.0, percent,
                             ("test, at the end", m.metrics["accuracy"]))
    soft = m.metrics.get("settings", {}).get("loss") == DISTILLATION
    words = "Loss: how wrong the answers are" + soft * ", in training compared with soft labels"
    loss = charts.curves("Loss by epoch", losses, 1.1 * highest, lambda value: f"{value:.2f}")
    return section(
        "learning", "How it learned",
        lead(f"In each of {len(history)} epochs it saw every training photo once, cropped, mirrored and lit "
             "differently each time, which makes them harder than whole photos. ", *advice(m, history)),
        tag("div", tag("figure", tag("figcaption", "Share of right answers"), accuracy),
            tag("figure", tag("figcaption", words), loss), class_="pair"))


def advice(m: Material, history) -> list:
    """What the curves say about the next run."""
    accuracy = [epoch["accuracy"] for epoch in history]
    before = accuracy[-1 - max(1, len(accuracy) // 8)]
    if accuracy[-1] - m.metrics["accuracy"] > LEARNED_BY_HEART:
        return ["It knows its training photos better than the test photos, so it has learned some by heart. "
                "More photos, or more varied ones, would help most."]
    if accuracy[-1] > before + FLAT and m.metrics["accuracy"] < 0.98:
        return ["It was still improving at the end, so more ", tag("code", "--epochs"), " may help."]
    return ["The curves are flat at the end, so more ", tag("code", "--epochs"), " would change little."]


def confusions(m: Material, panels: Markup) -> Markup:
    """The confusion matrix, with the photos of its cells beside it."""
    if m.confusions:
        said = ["Most often, ", *series([join(strong(m.classes[i]), " is taken for ", strong(m.classes[j]),
                f" ({count} of {m.confusion.there[i]})") for count, i, j in m.confusions[:3]]), ". "]
    else:
        said = ["Nothing: every photo was put into the right class. "]
    some = "" if len(m.shown) == len(m.classes) else \
        f" Of {len(m.classes)} classes, it shows the {len(m.shown)} with the most mistakes."
    rows = [tag("tr", tag("td", tag("a", m.classes[i], " taken for ", m.classes[j],
                                    href=f"#{matrix.key(i, j)}")),
                tag("td", count), tag("td", percent(count / m.confusion.there[i])))
            for count, i, j in m.confusions[:COMMON]]
    heads = [tag("th", head, scope="col") for head in ("confusion", "photos", "of the class")]
    table = tag("table", tag("thead", tag("tr", heads)), tag("tbody", rows), class_="numbers")
    return section(
        "confusions", "What it confuses",
        lead(*said, "Choose a cell to see its photos. Each row shows where the photos of a class went. "
             f"Classes that are confused stand side by side.{some}"),
        tag("div", scrolled(matrix.chart(m.confusion, m.classes, m.shown), "Confusion matrix"),
            tag("div", panels, class_="panels"), class_="beside" if len(m.shown) <= NARROW else "above"),
        unfold("The most common confusions as a table", table) if rows else None)


def classes(m: Material) -> Markup:
    """Precision, recall and F1 of each class, the weakest first."""
    def weakness(item):
        return item[1]["f1"] or 0 if item[1]["count"] else 2

    rows = []
    every = sorted(m.metrics["classes"].items(), key=weakness)
    for name, row in every[:MOST_ROWS]:
        cells = [tag("td", charts.bar(row[key], "good"), "–" if row[key] is None else percent(row[key]))
                 for key in ("recall", "precision", "f1")]
        rows.append(tag("tr", tag("th", name, scope="row"), cells, tag("td", row["count"], class_="plain")))
    terms = {"class": None, "found": "recall", "trusted": "precision", "both": "F1", "photos": None}
    heads = [tag("th", head, tag("small", term), scope="col") for head, term in terms.items()]

    def table(rows):
        return tag("table", tag("thead", tag("tr", heads)), tag("tbody", rows), class_="classes")

    few = rows if len(rows) <= FEW_ROWS else rows[:WEAKEST]
    others = rows[len(few):]
    more = scrolled(table(others), "Figures for the other classes")
    return section(
        "classes", "Class by class",
        lead("The weakest class comes first. ", strong("Found"), " is the share of a class's photos that the "
             "network recognised. ", strong("Trusted"), " is the share of its answers with this class that "
             "are right. ", strong("Both"), " is one number for the two, their harmonic mean."),
        scrolled(table(few), "Figures for each class"),
        unfold(f"The other {len(others)} classes", more) if others else None,
        note(f"These are the {MOST_ROWS} weakest of {len(every)} classes. The file of metrics has all.")
        if len(every) > MOST_ROWS else None)


def trust(m: Material) -> Markup | None:
    """Whether its probabilities are true."""
    if len(m.labels) < FEWEST:
        return None
    bins = reliability(m.labels, m.probabilities)
    error = expected_calibration_error(bins)
    said, true = float(m.sure.mean()), float(m.right.mean())
    verdict = "so its percentages can be taken at their word" if abs(said - true) < CALIBRATED \
        else "so it is better than it says" if true > said else "so it is too sure of itself"
    return section(
        "trust", "Can its percentages be trusted?",
        tag("div", tag("div",
            lead(f"On average it says that it is {percent(said)} sure, and it is right for {percent(true)}, "
                 f"{verdict}."),
            tag("p", "Each bar collects the answers of which it was about equally sure, and shows how many "
                f"were right. On the dashed line, an answer that is {percent(0.8)} sure is right "
                f"{percent(0.8)} of the time. Thin lines are {percent(0.95)} intervals: a bar of few photos "
                f"says little. On average, the bars are {percent(error, 1)} away from the line (the expected "
                "calibration error).")),
            tag("figure", charts.reliability_chart(bins)), class_="beside even"))


def made(m: Material) -> Markup:
    """The circumstances of the run, and the command that repeats it."""
    report = m.metrics
    model = report.get("model", {})
    facts = {"mode": report["mode"], "test photos": report["photos"], **report.get("folders", {}),
             "model": model.get("path"), "model SHA-256": model.get("sha256")}
    parts = [tag("div", tag("h3", title), tag("dl", [
        [tag("dt", name.replace("_", " ")), tag("dd", value)] for name, value in values.items()]))
        for title, values in (("The run", facts), ("Settings", report.get("settings", {})),
                              ("Versions", report.get("versions", {}))) if values]
    again = join(tag("h3", "The command that repeats this run"), tag(
        "div", tag("pre", report["command"], tabindex="0", id="command"),
        tag("button", "Copy", type="button", data_copy="command", hidden=True), class_="command")) \
        if "command" in report else None
    return section("made", "How it was made", again, tag("div", parts, class_="columns"),
                   note("The file of metrics beside this report has all numbers, for programs."))
