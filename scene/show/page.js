// The page: asks about a photo, and shows the answer.

import {bar, element, find, percent, post, rank} from "./elements.js";
import {encode, listen, prepare} from "./photo.js";

const SHOWN = 5;                // classes
const LARGEST = {width: 600, height: 540};                  // of the photo on the page
const REASONS = {               // why an answer is not sure, as answer/calibration.py has it
    close_call: "None of its answers is likely enough to rely on.",
    unlike_training: "This photo is unlike those that it was trained on.",
};

let server = {models: {}, limits: {formats: ["image/jpeg", "image/png"]}};
let current = null;             // {photo, encoded}: what was sent last
let turn = 0;                   // counts questions: an answer to an older one is not shown

export const mode = () => (document.querySelector("#modes input:checked") || {}).value;
export const photo = () => current;
const followers = [];
export const follow = work => followers.push(work);         // calls work(answer) after each answer

async function take(file) {
    const mine = ++turn;
    say(null);
    find("waiting").hidden = false;
    find("answer").hidden = true;
    let sent, encoded;
    try {
        sent = await prepare(file, server.limits.formats);
        encoded = await encode(sent);
    } catch {
        if (mine === turn) say("This cannot be read: choose a photo file.");
        return;
    }
    if (mine !== turn) return;
    current = {photo: sent, encoded: encoded.replace(/^data:[^,]*,/, "")};
    show(sent);
    ask();
}

async function ask() {
    const mine = ++turn;
    find("waiting").hidden = false;
    const question = {mode: mode(), imageBase64: current.encoded};
    let reply = await post("get_scene", {...question, map: true});
    if (reply.answer.error?.code === "map_needs_torch") reply = await post("get_scene", question);
    if (mine !== turn) return;
    find("waiting").hidden = true;
    const {answer, times} = reply;
    find("answer").hidden = Boolean(answer.error);
    find("legend").hidden = Boolean(answer.error) || !answer.map;
    if (answer.error) {
        say(answer.error.message);
        draw(null);
    } else {
        say(null);
        tell(answer, times);
    }
    followers.forEach(work => work(answer));
}

// Shows a sentence about what went wrong, or none.
function say(sentence) {
    find("waiting").hidden = true;
    find("trouble").hidden = !sentence;
    find("trouble").textContent = sentence || "";
}

function show(sent) {
    const image = find("photo");
    URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(sent);
    image.onerror = () => { find("shown").hidden = true; };
    find("shown").hidden = find("another").hidden = false;
    find("drop").hidden = find("hints").hidden = true;
    draw(null);
}

function tell(answer, times) {
    const ranked = rank(answer.probabilities);
    const sure = answer.sure !== false;
    const [[first, share], second] = ranked;
    find("verdict").textContent = answer.sure === undefined ? `${percent(share)} likely`
        : sure ? `Sure, ${percent(share)} likely` : "Not sure";
    find("verdict").classList.toggle("bad-ink", !sure);
    find("scene").textContent = readable(first) + (sure || !second ? "" : `, or ${readable(second[0])}?`);
    find("reason").textContent = sure ? "" : REASONS[answer.reason] || "";
    find("odds").replaceChildren(...ranked.slice(0, SHOWN).map(([name, p]) => element("li", {},
        element("span", {class: "name", title: name}, readable(name)), bar(p), element("span", {}, percent(p)))));
    const parts = {decode: "decoded", predict: "answered", map: "mapped"};
    const said = Object.keys(parts).filter(part => part in times)
        .map(part => `${parts[part]} in ${times[part].toFixed(1)} ms`);
    find("times").textContent = `Photo ${said.join(", ")}. Model ${answer.mode} ${answer.model}.`;
    draw(answer.map);
}

// "wheat_field" -> "wheat field"
export const readable = name => name.replaceAll("_", " ");

// The class map

let drawn = null;               // the map as a small picture, a pixel for each place

function draw(map) {
    drawn = map ? picture(map) : null;
    if (map) {
        const orange = element("span", {class: "for"}, "Orange");
        const blue = element("span", {class: "against"}, "blue");
        find("explained").replaceChildren(...map.exact
            ? [orange, ` speaks for ${readable(map.class)}, `, blue, " against it. The places and a constant ",
               `add up to its score, ${map.score.toFixed(2)}, exactly.`]
            : [orange, ` is where its score for ${readable(map.class)} would change most if the photo did.`]);
    }
    paint();
}

// As in pictures.py: full colour at the strongest place. A map of sensitivities shows what is above their mean.
function picture({places, exact}) {
    const values = places.flat();
    const mean = exact ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length;
    const levels = values.map(value => exact ? value : Math.max(0, value - mean));
    const strongest = Math.max(...levels.map(Math.abs)) || 1;
    const canvas = document.createElement("canvas");
    [canvas.height, canvas.width] = [places.length, places[0].length];
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    const style = getComputedStyle(document.documentElement);
    const [plus, minus] = ["--map-for", "--map-against"].map(
        name => style.getPropertyValue(name).trim().split(" ").map(Number));
    levels.forEach((level, i) => {
        const colour = level > 0 ? plus : minus;
        image.data.set([...colour, 255 * (Math.abs(level) / strongest) ** 0.8], 4 * i);
    });
    context.putImageData(image, 0, 0);
    return canvas;
}

function paint() {
    const [canvas, image, strength] = [find("map"), find("photo"), find("strength").value / 100];
    const scale = Math.min(LARGEST.width / image.naturalWidth, LARGEST.height / image.naturalHeight);
    image.width = image.naturalWidth * scale;
    image.style.filter = drawn ? `grayscale(${0.65 * strength}) brightness(${1 - 0.1 * strength})` : "";
    [canvas.width, canvas.height] = [2 * image.width, 2 * image.height];
    if (!drawn) return;
    const context = canvas.getContext("2d");
    context.globalAlpha = 0.85 * strength;
    context.imageSmoothingQuality = "high";
    context.drawImage(drawn, 0, 0, canvas.width, canvas.height);
}

// The start

function offer(models) {
    const names = Object.keys(models);
    for (const [i, name] of names.entries()) {
        const input = element("input", {type: "radio", name: "mode", value: name, checked: i === 0});
        input.addEventListener("change", () => current && ask());
        find("modes").append(element("label", {}, input, ` ${name}`));
    }
    find("modes").hidden = names.length < 2;
    const {classes} = models[names[0]];
    const few = classes.slice(0, 10).map(readable).join(", ");
    const more = classes.length > 10 ? " and so on" : "";
    find("known").textContent = `It knows ${classes.length} scenes: ${few}${more}.`;
}

find("strength").addEventListener("input", paint);
find("photo").addEventListener("load", paint);
listen(take, say);
try {
    server = await (await fetch("health")).json();
    offer(server.models);
} catch {
    say("The server does not answer. Check that scene.serve is still running, then load this page again.");
}
