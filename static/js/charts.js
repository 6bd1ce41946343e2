// Charts: the values of one moment, where the pointer, a finger or the arrow keys are. They stand in the table behind it;
// while one reads, the legend shows them in place of the sums.
"use strict";

const KEYS = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
const rowsOf = (chart) => chart.querySelectorAll("tbody tr");
let read = null; // the chart in which somebody reads

function show(chart, at) {
  const rows = rowsOf(chart);
  if (!rows.length) return;
  if (read !== chart) hide();
  read = chart;
  at = Math.max(0, Math.min(rows.length - 1, at));
  chart.dataset.at = at;
  const [moment, ...values] = [...rows[at].children].map((cell) => cell.textContent);
  const keys = [...chart.querySelectorAll(".key li")];
  keys.forEach((key, n) => {
    const value = key.querySelector("b");
    value.dataset.sum ??= value.textContent;
    value.textContent = values[n];
  });
  chart.querySelector(".moment").textContent = moment;
  chart.querySelector("output").textContent = `${moment}: ${keys.map((key, n) => `${key.dataset.name} ${values[n]}`).join(", ")}.`;
  const x = `${100 * (chart.dataset.kind === "bars" ? (at + 0.5) / rows.length : rows.length > 1 ? at / (rows.length - 1) : 0)}%`;
  const line = chart.querySelector(".here");
  line.setAttribute("x1", x);
  line.setAttribute("x2", x);
  line.removeAttribute("visibility");
}

function hide() {
  if (!read) return;
  read.querySelectorAll(".key b").forEach((value) => (value.textContent = value.dataset.sum ?? value.textContent));
  read.querySelector(".moment").textContent = read.querySelector("output").textContent = "";
  read.querySelector(".here").setAttribute("visibility", "hidden");
  read = null;
}

function point(event) {
  const plot = event.target.closest?.(".chart .plot");
  if (!plot) return event.pointerType === "mouse" || event.type === "pointerdown" ? hide() : undefined;
  const chart = plot.closest(".chart"), box = plot.getBoundingClientRect(), n = rowsOf(chart).length;
  const part = (event.clientX - box.left) / box.width;
  show(chart, chart.dataset.kind === "bars" ? Math.floor(part * n) : Math.round(part * (n - 1)));
}
document.addEventListener("pointermove", point);
document.addEventListener("pointerdown", point);

document.addEventListener("focusin", ({ target }) => {
  if (target.matches(".plot:focus-visible")) show(target.closest(".chart"), Number(target.closest(".chart").dataset.at ?? Infinity));
});
document.addEventListener("focusout", ({ target }) => { if (target.matches(".plot")) hide(); });
document.addEventListener("keydown", (event) => {
  if (!event.target.matches(".plot") || !(event.key in KEYS)) return;
  event.preventDefault();
  const chart = event.target.closest(".chart");
  show(chart, Number(chart.dataset.at ?? Infinity) + KEYS[event.key]);
});
// What is swapped is another chart.
document.addEventListener("htmx:beforeSwap", ({ target, detail }) => { if (detail.shouldSwap && target.contains(read)) read = null; });
