// Look inside, one training step, and planted bugs. The server computes all numbers and pictures: this shows them.

import {bar, digits, element, find, percent, post} from "./elements.js";
import {follow, mode, photo, readable} from "./page.js";

const TITLES = {                // of pictures
    y: "What it made of your photo",
    w: "Its weights, as pictures of what a unit looks for",
    dy: "dy, the gradient that arrives",
    dx: "dx, the gradient that goes on to the layer before",
    dw: "dW, how the loss changes with each weight",
};
const KINDS = {forward: "forward", loss: "loss", backward: "backward", step: "update"};

const times = shape => shape.join("×") || "1";
const spaced = count => String(count).replace(/\B(?=(\d{3})+$)/g, "\u00a0");

// A section with a button that asks the server
class Task {
    constructor(name, address, show) {
        this.root = find(name);
        this.address = address;
        this.show = show;
        this.button = this.root.querySelector("button");
        this.classes = this.root.querySelector("select");
        this.alert = this.root.querySelector(".alert");
        this.result = this.root.querySelector(".result");
        this.turn = 0;
        this.button.addEventListener("click", () => this.run());
        follow(answer => this.reset(answer));
    }

    // Another photo or another network: what is shown is no longer true.
    reset(answer) {
        this.turn++;
        this.result.replaceChildren();
        this.alert.hidden = true;
        this.button.disabled = Boolean(answer.error);
        this.root.querySelector(".hint").hidden = !answer.error;
        if (!this.classes || answer.error) return;
        this.classes.disabled = false;
        this.classes.replaceChildren(...Object.keys(answer.probabilities).map(
            name => element("option", {value: name}, readable(name))));
    }

    async run(more = {}) {
        const mine = ++this.turn;
        this.button.disabled = true;
        this.root.classList.add("busy");
        const right = this.classes ? {class: this.classes.value} : {};
        const {answer} = await post(this.address, {mode: mode(), imageBase64: photo().encoded, ...right, ...more});
        this.root.classList.remove("busy");
        if (mine !== this.turn) return;
        this.button.disabled = false;
        this.alert.hidden = !answer.error;
        this.alert.textContent = answer.error ? answer.error.message : "";
        this.result.replaceChildren(...answer.error ? [] : this.show(answer, this));
    }
}

// Stages, one at a time: a list to choose from, and buttons for the next and the one before.
function stepper(stages) {
    const detail = element("article", {class: "stage", "aria-live": "polite"});
    let at = 0;
    const choose = (i, focus) => {
        at = Math.min(stages.length - 1, Math.max(0, i));
        buttons.forEach((each, k) => k === at ? each.setAttribute("aria-current", "step") : each.removeAttribute("aria-current"));
        const rail = buttons[at].closest("ol");
        rail.scrollTop = buttons[at].offsetTop - rail.clientHeight / 2;
        rail.scrollLeft = buttons[at].offsetLeft - rail.clientWidth / 2;
        if (focus) buttons[at].focus({preventScroll: true});
        back.disabled = at === 0;
        next.disabled = at === stages.length - 1;
        detail.replaceChildren(...stageView(stages[at], at, stages.length));
        if (whole.getBoundingClientRect().top < 0) whole.scrollIntoView();
    };
    const buttons = stages.map((stage, i) => {
        const deep = stage.place.includes(".") ? "deep" : "";
        const button = element("button", {type: "button", class: `${stage.kind} ${deep}`},
            element("span", {class: "place"}, stage.place || {loss: "L", step: "θ"}[stage.kind]), element("span", {}, short(stage.name)),
            element("small", {}, stage.kind === "forward" ? times(stage.output) : KINDS[stage.kind]));
        button.addEventListener("click", () => choose(i));
        return button;
    });
    const list = element("ol", {class: "rail", "aria-label": "Stages"}, buttons.map(button => element("li", {}, button)));
    list.addEventListener("keydown", event => {
        const ways = {ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1};
        if (event.key in ways) {
            event.preventDefault();
            choose(at + ways[event.key], true);
        }
    });
    const back = element("button", {type: "button"}, "Back");
    const next = element("button", {type: "button", class: "main"}, "Next");
    back.addEventListener("click", () => choose(at - 1));
    next.addEventListener("click", () => choose(at + 1));
    const whole = element("div", {class: "stages"}, list,
        element("div", {}, element("p", {class: "buttons"}, back, next), detail));
    queueMicrotask(() => choose(0));
    return [whole];
}

const short = name => name.replace(/^Folded/, "");

function stageView(stage, at, count) {
    const parameters = Object.entries(stage.parameters).map(([key, shape]) => `${key} ${times(shape)}`).join(", ");
    const facts = [
        stage.kind === "backward" ? `${times(stage.output)} → ${times(stage.input)}` : `${times(stage.input)} → ${times(stage.output)}`,
        stage.count ? `${spaced(stage.count)} parameters${parameters ? `: ${parameters}` : ""}` : "no parameters"];
    return [
        element("h3", {}, element("span", {}, short(stage.name)),
            element("span", {class: `tag ${stage.kind}`}, KINDS[stage.kind]),
            element("small", {}, `${at + 1} of ${count}`)),
        element("p", {class: "call"}, element("code", {}, stage.call)),
        element("p", {class: "note"}, facts.join(" · ")),
        element("dl", {class: "facts"}, Object.entries(stage.numbers).map(([name, value]) => element("div", {},
            element("dt", {}, name), element("dd", {"data-value": value}, name.startsWith("share") ? percent(value) : digits(value))))),
        stage.classes ? losses(stage.classes) : null,
        stage.rates ? rates(stage.rates) : null,
        ...Object.entries(stage.pictures || {}).map(([key, group]) => gallery(key, group)),
        element("div", {class: "source"}, element("pre", {class: "formula", tabindex: 0}, stage.formula), ...stage.code.map(code)),
    ].filter(Boolean);
}

function gallery(key, {of, shown}) {
    const what = key.endsWith("w") ? "units" : "channels";
    const some = shown.length < of ? `the ${shown.length} most active of ${of} ${what}` : of > 1 ? `all ${of} ${what}, the most active first` : "";
    const wide = of === 1;
    return element("figure", {class: `gallery ${wide ? "row-picture" : ""} ${key}`},
        element("figcaption", {}, element("strong", {}, TITLES[key]), some ? ` ${some}` : ""),
        element("div", {}, shown.map(({name, src, value}) => element("img", {
            src, loading: "lazy", alt: value === undefined ? name : `${name}, ${digits(value)}`,
            title: value === undefined ? name : `${name}: root mean square ${digits(value)}`}))));
}

function code({file, line, text}) {
    const lines = text.split("\n").map((words, i) => element("span", {"data-line": line + i}, words));
    return element("figure", {class: "code"}, element("figcaption", {}, file ? `${file}, line ${line}` : ""),
        element("pre", {tabindex: 0}, element("code", {}, lines)));
}

function table(heads, rows, kind = "") {
    return element("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": heads.join(", ")},
        element("table", {class: kind}, element("thead", {}, element("tr", {}, heads.map(head => element("th", {scope: "col"}, head)))),
            element("tbody", {}, rows)));
}

const cells = (...values) => values.map(value => element("td", {}, value));

// Scores, probabilities, and the gradient with which backward starts: dz = p - t.
function losses(classes) {
    return table(["class", "score z", "probability p", "", "target t", "gradient dz = p − t"], classes.map(row => element("tr",
        {class: row.t ? "chosen" : null}, element("th", {scope: "row"}, readable(row.class)),
        cells(digits(row.z), bar(row.p), percent(row.p), row.t), element("td", {"data-value": row.dz}, digits(row.dz)))), "losses");
}

// What a step does to the answer, for each learning rate.
function rates(rows) {
    return table(["learning rate η", "loss L", "the right class", "", "its answer"], rows.map(row => element("tr", {},
        element("th", {scope: "row"}, row.rate ? row.rate.toFixed(6).replace(/0+$/, "") : "before the step"),
        element("td", {"data-value": row.loss}, digits(row.loss)),
        cells(bar(row.p), percent(row.p), `${readable(row.scene)}, ${percent(row.likeliest)}`))), "rates");
}

// Gradients beside finite differences
function check({rows, planted, bugs, measure}, task) {
    const choice = task.root.querySelector(".bugs");
    if (choice.dataset.mode !== mode()) {
        const options = [["", "Scene's own, as it is"], ...Object.entries(bugs)];
        choice.replaceChildren(choice.querySelector("legend"), ...options.map(([name, words]) => {
            const input = element("input", {type: "radio", name: "bug", value: name, checked: name === ""});
            input.addEventListener("change", () => task.run({bug: name}));
            return element("label", {}, input, ` ${words}`);
        }));
        choice.dataset.mode = mode();
    }
    choice.hidden = false;
    const wrong = rows.filter(row => !row.right);
    const verdict = planted && !wrong.length
        ? "Nothing to see: the network is so sure of this class that all gradients are nearly 0. Choose another class."
        : !wrong.length ? `All ${rows.length} derivatives agree with finite differences.`
        : `${wrong.length} of ${rows.length} derivatives ${wrong.length === 1 ? "is" : "are"} wrong. Backward goes from top to bottom, so look at the first red one.`;
    const list = table(["array", "by backward", "by finite differences", "difference", ""], rows.map(row => element("tr",
        {class: row.right ? "right" : "wrong"},
        element("th", {scope: "row"}, `${row.name} `, element("small", {}, short(row.layer))),
        element("td", {"data-value": row.backward}, digits(row.backward)), element("td", {"data-value": row.measured}, digits(row.measured)),
        cells(digits(row.difference), row.right ? "✓ same" : "✗ wrong"))), "check");
    const compared = planted ? [element("h3", {}, `Planted in ${planted.place.replace("Folded", "")}`),
        element("div", {class: "compared"}, element("div", {}, element("p", {class: "bad-ink"}, "The bug"), code(planted.wrong)),
            element("div", {}, element("p", {class: "good-ink"}, "Scene's own"), code(planted.right)))] : [];
    return [element("p", {class: `verdict ${wrong.length ? "bad-ink" : "good-ink"}`}, verdict), list, ...compared,
        element("details", {}, element("summary", {}, "How the slope is measured"), code(measure))];
}

new Task("inside", "inside", answer => stepper(answer.stages));
new Task("step", "step", answer => stepper(answer.stages));
const bug = new Task("bug", "check", check);
follow(() => {
    bug.root.querySelector(".bugs").hidden = true;
    delete bug.root.querySelector(".bugs").dataset.mode;
});
