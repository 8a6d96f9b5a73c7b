// The stages of a forward pass or a training step, one at a time. The server computed all numbers and pictures.

import {bar, digits, element, percent} from "./elements.js";
import {readable} from "./page.js";

const TITLES = {                // of pictures
    y: "What it made of your photo",
    w: "Its weights, as pictures of what a unit looks for",
    dy: "dy, the gradient that arrives",
    dx: "dx, the gradient that goes on to the layer before",
    dw: "dW, how the loss changes with each weight",
};
const KINDS = {forward: "forward", loss: "loss", backward: "backward", step: "update"};
const SIGNS = {loss: "L", step: "θ"};           // of stages that are no layers

const times = shape => shape.join("×") || "1";
const spaced = count => String(count).replace(/\B(?=(\d{3})+$)/g, "\u00a0");
export const short = name => name.replace(/^Folded/, "");

// A list of the stages to choose from, and buttons for the next and the one before.
export function stepper(stages) {
    const detail = element("article", {class: "stage", "aria-live": "polite"});
    const back = element("button", {type: "button"}, "Back");
    const next = element("button", {type: "button", class: "main"}, "Next");
    const buttons = stages.map(railButton);
    const rail = element("ol", {class: "rail", "aria-label": "Stages"},
        buttons.map(button => element("li", {}, button)));
    const whole = element("div", {class: "stages"}, rail,
        element("div", {}, element("p", {class: "buttons"}, back, next), detail));
    let at = 0;

    const choose = i => {
        buttons[at].removeAttribute("aria-current");
        at = Math.min(stages.length - 1, Math.max(0, i));
        const button = buttons[at];
        button.setAttribute("aria-current", "step");
        rail.scrollTop = button.offsetTop - rail.clientHeight / 2;
        rail.scrollLeft = button.offsetLeft - rail.clientWidth / 2;
        back.disabled = at === 0;
        next.disabled = at === stages.length - 1;
        detail.replaceChildren(...view(stages[at], `${at + 1} of ${stages.length}`));
        if (whole.getBoundingClientRect().top < 0) whole.scrollIntoView();
    };
    buttons.forEach((button, i) => button.addEventListener("click", () => choose(i)));
    back.addEventListener("click", () => choose(at - 1));
    next.addEventListener("click", () => choose(at + 1));
    rail.addEventListener("keydown", event => {
        const ways = {ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1};
        if (!(event.key in ways)) return;
        event.preventDefault();
        choose(at + ways[event.key]);
        buttons[at].focus({preventScroll: true});
    });
    queueMicrotask(() => choose(0));            // when it is on the page
    return whole;
}

function railButton({kind, name, place, output}) {
    const deep = place.includes(".") ? "deep" : "";         // inside of a residual layer
    return element("button", {type: "button", class: `${kind} ${deep}`},
        element("span", {class: "place"}, place || SIGNS[kind]),
        element("span", {}, short(name)),
        element("small", {}, kind === "forward" ? times(output) : KINDS[kind]));
}

// Everything about a stage.
function view(stage, where) {
    const ends = [times(stage.input), times(stage.output)];
    if (stage.kind === "backward") ends.reverse();
    const arrays = Object.entries(stage.parameters).map(([key, shape]) => `${key} ${times(shape)}`);
    const count = stage.count ? `${spaced(stage.count)} parameters` : "no parameters";
    return [
        element("h3", {}, element("span", {}, short(stage.name)),
            element("span", {class: `tag ${stage.kind}`}, KINDS[stage.kind]), element("small", {}, where)),
        element("p", {class: "call"}, element("code", {}, stage.call)),
        element("p", {class: "note"}, `${ends.join(" → ")} · ${[count, ...arrays].join(", ")}`),
        element("dl", {class: "facts"}, Object.entries(stage.numbers).map(fact)),
        ...stage.classes ? [losses(stage.classes)] : [],
        ...stage.rates ? [rates(stage.rates)] : [],
        ...Object.entries(stage.pictures || {}).map(gallery),
        element("pre", {class: "formula", tabindex: 0}, stage.formula),
        ...stage.code.map(code),
    ];
}

function fact([name, value]) {
    const shown = name.startsWith("share") ? percent(value) : digits(value);
    return element("div", {}, element("dt", {}, name), element("dd", {"data-value": value}, shown));
}

// Pictures of an array: one for each channel or unit, or a single one for a vector.
function gallery([key, {of, shown}]) {
    const what = key.endsWith("w") ? "units" : "channels";
    const some = shown.length < of ? `the ${shown.length} most active of ${of} ${what}`
        : of > 1 ? `all ${of} ${what}, the most active first` : "";
    const images = shown.map(({name, src, value}) => {
        const words = value === undefined ? name : `${name}, root mean square ${digits(value)}`;
        return element("img", {src, alt: words, title: words});
    });
    return element("figure", {class: `gallery ${key} ${of === 1 ? "single" : ""}`},
        element("figcaption", {}, element("strong", {}, TITLES[key]), ` ${some}`), element("div", {}, images));
}

// Lines of our source.
export function code({file, line, text}) {
    const lines = text.split("\n").map((words, i) => element("span", {"data-line": line + i}, words));
    return element("figure", {class: "code"},
        element("figcaption", {}, file ? `${file}, line ${line}` : ""),
        element("pre", {tabindex: 0}, element("code", {}, lines)));
}

// A table that scrolls sideways, by the keyboard too.
export function table(kind, heads, rows) {
    const head = element("tr", {}, heads.map(words => element("th", {scope: "col"}, words)));
    return element("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": heads.join(", ")},
        element("table", {class: kind}, element("thead", {}, head), element("tbody", {}, rows)));
}

export const cell = content => element("td", {}, content);
export const number = value => element("td", {"data-value": value}, digits(value));
export const heading = (...content) => element("th", {scope: "row"}, ...content);

// Scores, probabilities, and the gradient with which backward starts.
function losses(classes) {
    const heads = ["class", "score z", "probability p", "", "target t", "gradient dz = p − t"];
    return table("losses", heads, classes.map(row => element("tr", {class: row.t ? "chosen" : null},
        heading(readable(row.class)), cell(digits(row.z)), cell(bar(row.p)), cell(percent(row.p)), cell(row.t),
        number(row.dz))));
}

// What a step does to the answer, for each learning rate.
function rates(rows) {
    const heads = ["learning rate η", "loss L", "the right class", "", "its answer"];
    return table("rates", heads, rows.map(row => element("tr", {},
        heading(row.rate ? row.rate.toFixed(6).replace(/0+$/, "") : "before the step"), number(row.loss),
        cell(bar(row.p)), cell(percent(row.p)), cell(`${readable(row.scene)}, ${percent(row.likeliest)}`))));
}
