"use strict";
// Everything on the page works without this: it adds the arrow keys, Escape, and buttons that copy.

const matrix = document.querySelector("svg.matrix");
if (matrix) {
    const cells = [...matrix.querySelectorAll("a")].map(link => {
        const box = link.querySelector("rect");
        return {link, x: +box.getAttribute("x"), y: +box.getAttribute("y")};
    });
    const ways = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    // The nearest cell in that direction: along the way first, sideways at a price.
    const next = (from, [dx, dy]) => cells
        .map(to => ({to, along: (to.x - from.x) * dx + (to.y - from.y) * dy,
                     aside: Math.abs((to.x - from.x) * dy) + Math.abs((to.y - from.y) * dx)}))
        .filter(each => each.along > 0.5)
        .sort((a, b) => a.along + 3 * a.aside - b.along - 3 * b.aside)[0];
    matrix.addEventListener("keydown", event => {
        const from = cells.find(cell => cell.link === document.activeElement);
        const found = from && ways[event.key] && next(from, ways[event.key]);
        if (found) {
            event.preventDefault();
            found.to.link.focus();
        }
    });
    const mark = () => cells.forEach(({link}) => {
        const chosen = link.getAttribute("href") === location.hash;
        link.classList.toggle("chosen", chosen);
        chosen ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
    });
    addEventListener("hashchange", mark);
    mark();
    document.addEventListener("keydown", event => {
        const chosen = event.key === "Escape" && cells.find(cell => cell.link.classList.contains("chosen"));
        if (chosen) {
            location.hash = "confusions";
            chosen.link.focus();
        }
    });
}

for (const button of document.querySelectorAll("button[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
        const target = document.getElementById(button.dataset.copy);
        try {
            await navigator.clipboard.writeText(target.textContent);
            button.textContent = "Copied";
        } catch {
            getSelection().selectAllChildren(target);
            button.textContent = "Selected: press Ctrl-C";
        }
    });
}
