// Look inside, one training step, and planted bugs: each a section with a button that asks the server.

import {digits, element, find, post, rank} from "./elements.js";
import {follow, mode, photo, readable} from "./page.js";
import {cell, code, heading, number, short, stepper, table} from "./stages.js";

class Task {
    constructor(name, address, show, more = () => ({})) {
        this.root = find(name);
        this.address = address;
        this.show = show;
        this.more = more;
        this.button = this.root.querySelector("button");
        this.classes = this.root.querySelector("select");
        this.alert = this.root.querySelector(".alert");
        this.result = this.root.querySelector(".result");
        this.turn = 0;
        this.button.addEventListener("click", () => this.run());
        this.classes?.addEventListener("change", () => this.result.children.length && this.run());
        follow(answer => this.reset(answer));
    }

    // Another photo or another network: what is shown is no longer true.
    reset(answer) {
        this.turn++;
        this.root.classList.remove("busy");
        this.result.replaceChildren();
        this.alert.hidden = true;
        this.button.disabled = Boolean(answer.error);
        this.root.querySelector(".hint").hidden = !answer.error;
        if (!this.classes || answer.error) return;
        this.classes.disabled = false;
        this.classes.replaceChildren(...rank(answer.probabilities).map(
            ([name]) => element("option", {value: name}, readable(name))));
    }

    async run() {
        const mine = ++this.turn;
        this.button.disabled = true;
        this.root.classList.add("busy");
        const right = this.classes ? {class: this.classes.value} : {};
        const {answer} = await post(this.address,
            {mode: mode(), imageBase64: photo().encoded, ...right, ...this.more()});
        if (mine !== this.turn) return;
        this.root.classList.remove("busy");
        this.button.disabled = false;
        this.alert.hidden = !answer.error;
        this.alert.textContent = answer.error ? answer.error.message : "";
        this.result.replaceChildren(...answer.error ? [] : this.show(answer, this));
    }
}

// Gradients beside finite differences.
function check({rows, planted, bugs, measure}, task) {
    offer(bugs, task);
    const wrong = rows.filter(row => !row.right).length;
    const heads = ["array", "by backward", "by finite differences", "difference", ""];
    const list = table("check", heads, rows.map(row => element("tr", {class: row.right ? "right" : "wrong"},
        heading(`${row.name} `, element("small", {}, short(row.layer))), number(row.backward), number(row.measured),
        cell(digits(row.difference)), cell(row.right ? "✓ same" : "✗ wrong"))));
    return [
        element("p", {class: `verdict ${wrong ? "bad-ink" : "good-ink"}`}, verdict(wrong, rows.length, planted)),
        list,
        ...planted ? compare(planted) : [],
        element("details", {}, element("summary", {}, "How the slope is measured"), code(measure)),
    ];
}

function verdict(wrong, count, planted) {
    if (wrong) {
        return `${wrong} of ${count} derivatives ${wrong === 1 ? "is" : "are"} wrong. Backward goes from top to `
            + "bottom, so look at the first red one.";
    }
    return planted ? "Nothing to see: the network is so sure of this class that all gradients are nearly 0. "
        + "Choose another class." : `All ${count} derivatives agree with finite differences.`;
}

// The bug beside the right code.
function compare({place, wrong, right}) {
    return [
        element("h3", {}, `Planted in ${place.replace("Folded", "")}`),
        element("div", {class: "compared"},
            element("div", {}, element("p", {class: "bad-ink"}, "The bug"), code(wrong)),
            element("div", {}, element("p", {class: "good-ink"}, "Scene's own"), code(right)))];
}

// The bugs that the network can have, to choose from.
function offer(bugs, task) {
    const choice = task.root.querySelector(".bugs");
    choice.hidden = false;
    if (choice.dataset.mode === mode()) return;
    choice.dataset.mode = mode();
    const options = [["", "Scene's own, as it is"], ...Object.entries(bugs)];
    choice.replaceChildren(choice.querySelector("legend"), ...options.map(([name, words]) => {
        const input = element("input", {type: "radio", name: "bug", value: name, checked: name === ""});
        input.addEventListener("change", () => task.run());
        return element("label", {}, input, ` ${words}`);
    }));
}

const chosenBug = () => (document.querySelector(".bugs:not([hidden]) input:checked") || {value: ""}).value;

new Task("inside", "inside", answer => [stepper(answer.stages)]);
new Task("step", "step", answer => [stepper(answer.stages)]);
const bug = new Task("bug", "check", check, () => ({bug: chosenBug()}));
follow(() => {
    const choice = bug.root.querySelector(".bugs");
    choice.hidden = true;
    delete choice.dataset.mode;                 // another photo begins without a bug
});
