// Small things that HTML alone does not do. Kept in a file: the Content-Security-Policy allows no inline script.
"use strict";

// A page that nobody looks at asks once a minute at most, however often it says that it wants to.
const HIDDEN_MS = 60_000;
const asked = new WeakMap();
document.addEventListener("htmx:beforeRequest", (event) => {
  const polled = event.target;
  if (!polled.matches("[data-polled]")) return;
  if (document.hidden && performance.now() - (asked.get(polled) ?? 0) < HIDDEN_MS) event.preventDefault();
  else asked.set(polled, performance.now());
});

// What somebody marks, to copy it, is not pulled away; for a minute, so that a mark that was forgotten stops nothing.
const MARKED_MS = 60_000;
let markedAt = 0;
document.addEventListener("selectionchange", () => (markedAt = performance.now()));
function isMarked(polled) {
  const marked = document.getSelection();
  return !marked.isCollapsed && polled.contains(marked.anchorNode) && performance.now() - markedAt < MARKED_MS;
}

// What has not changed since the last refresh is neither sent nor swapped: 304.
document.addEventListener("htmx:configRequest", ({ target, detail }) => {
  if (target.matches("[data-polled]") && target.dataset.etag) detail.headers["If-None-Match"] = target.dataset.etag;
});
document.addEventListener("htmx:beforeSwap", ({ target, detail }) => {
  if (detail.xhr.status === 304 || isMarked(target)) detail.shouldSwap = false;
  else if (target.matches("[data-polled]")) target.dataset.etag = detail.xhr.getResponseHeader("ETag") ?? "";
});

// A refresh leaves tables and logs scrolled to where the reader had them, and open what was opened.
let scrolled = [], opened = [];
const folds = (polled) => [...polled.querySelectorAll("details")];
const scrollers = (polled) => [...polled.querySelectorAll(".scroll, .log")];
document.addEventListener("htmx:beforeSwap", (event) => {
  scrolled = scrollers(event.target).map((box) => [box.scrollLeft, box.scrollTop]);
  opened = folds(event.target).map((fold) => fold.open);
});
document.addEventListener("htmx:afterSwap", (event) => {
  scrollers(event.target).forEach((box, i) => scrolled[i] && box.scrollTo(...scrolled[i]));
  folds(event.target).forEach((fold, i) => { if (opened[i] !== undefined) fold.open = opened[i]; });
});

// Nor does it take the focus away: htmx cares for what has an id, and here what is called alike has it again.
const FOCUSABLE = "a[href], button, summary, [tabindex]";
const name = (it) => (it.matches(".plot") ? "chart" : `${it.tagName} ${it.getAttribute("href") ?? ""} ${it.textContent}`);
const alike = (polled, called) => [...polled.querySelectorAll(FOCUSABLE)].filter((it) => name(it) === called);
let focused = null;
document.addEventListener("htmx:beforeSwap", ({ target }) => {
  const it = document.activeElement;
  focused = target.contains(it) ? { name: name(it), at: alike(target, name(it)).indexOf(it) } : null;
});
document.addEventListener("htmx:afterSwap", ({ target }) => {
  if (!focused || document.activeElement !== document.body) return;
  alike(target, focused.name)[focused.at]?.focus({ preventScroll: true });
});

// Who listens hears which states have changed, and not more often than every ten seconds.
const TELL_EVERY_MS = 10_000, MOST_NEWS = 5;
const word = (it) => it.querySelector(".chip").lastChild.textContent.trim();
const states = (polled) => new Map([...polled.querySelectorAll("[data-tells]")].map((it) => [it.dataset.tells, word(it)]));
const news = new Map();
let stood = new Map(), toldAt = -TELL_EVERY_MS, telling = 0;
document.addEventListener("htmx:beforeSwap", ({ target }) => (stood = states(target)));
document.addEventListener("htmx:afterSwap", ({ target }) => {
  for (const [what, state] of states(target)) if (stood.has(what) && stood.get(what) !== state) news.set(what, state);
  if (news.size && !telling) telling = setTimeout(tell, Math.max(0, toldAt + TELL_EVERY_MS - performance.now()));
});
function tell() {
  const more = news.size > MOST_NEWS ? ` And ${news.size - MOST_NEWS} more.` : "";
  document.getElementById("news").textContent =
    [...news].slice(0, MOST_NEWS).map(([what, state]) => `${what}: ${state}.`).join(" ") + more;
  news.clear();
  toldAt = performance.now();
  telling = 0;
}

// Of a log, the end is what one came for.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".log").forEach((log) => log.scrollTo(0, log.scrollHeight));
});

// Buttons that end something ask first.
document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});

// Texts to take away have a button that copies them, where the browser can (https, or this machine).
document.addEventListener("DOMContentLoaded", () => {
  if (!navigator.clipboard) return;
  document.querySelectorAll("button[data-copy]").forEach((button) => (button.hidden = false));
});
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  const text = document.getElementById(button.dataset.copy).textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed: select it";
  }
  setTimeout(() => (button.textContent = "Copy"), 2000);
});

// What a page kept in this window is gone with the person.
document.addEventListener("submit", (event) => {
  if (event.target.matches("form.who")) sessionStorage.clear();
});
