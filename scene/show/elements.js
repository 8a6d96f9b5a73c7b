// Elements from data. Text becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "rect"]);

export const find = id => document.getElementById(id);

// element("p", {class: "note"}, "Hello") -> <p class="note">Hello</p>. An attribute that is null is left out.
export function element(name, attributes = {}, ...children) {
    const made = DRAWN.has(name) ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
        if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children.flat().filter(child => child !== null && child !== undefined));
    return made;
}

// {name: probability} -> [name, probability], the likeliest first. An object has names like "7" in front.
export const rank = probabilities => Object.entries(probabilities).sort((a, b) => b[1] - a[1]);

// A share from 0 to 1 as a bar, as in the report (charts.py).
export function bar(share, kind = "good") {
    const box = {x: 0, y: 0, height: 8};
    return element("svg", {class: "bar", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true"},
        element("rect", {...box, width: 100, class: "track"}),
        element("rect", {...box, width: 100 * Math.min(1, Math.max(0, share)), class: kind}));
}

// 0.804 -> "80 %". What is neither all nor nothing never reads 100 % or 0 %.
export function percent(share) {
    const value = 100 * share;
    if (value > 0 && value < 0.5) return "<1\u00a0%";
    if (value >= 99.5 && value < 100) return ">99\u00a0%";
    return `${value.toFixed(0)}\u00a0%`;
}

// Four digits of a number, with a true minus sign.
export function digits(value) {
    const size = Math.abs(value);
    const text = size && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : String(+value.toPrecision(4));
    return text.replaceAll("-", "\u2212");
}

// What the server answers to JSON: {status, answer, times}. An answer with an error has a sentence for people.
export async function post(address, content) {
    let response;
    try {
        response = await fetch(address, {
            method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(content)});
    } catch {
        return {status: 0, answer: {error: {code: "gone", message:
            "The server does not answer. Check that scene.serve is still running, then try again."}}};
    }
    try {
        const times = response.headers.get("Server-Timing") || "";
        return {status: response.status, answer: await response.json(), times: Object.fromEntries(
            [...times.matchAll(/(\w+);dur=([\d.]+)/g)].map(([, part, value]) => [part, +value]))};
    } catch {
        return {status: response.status, answer: {error: {code: "gone", message:
            "The answer was cut off. Try again."}}};
    }
}
