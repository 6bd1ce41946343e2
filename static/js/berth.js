// Two small things that HTML alone does not do. Kept in a file: the Content-Security-Policy allows no inline script.
"use strict";

// A page that nobody looks at asks nothing.
document.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden && event.target.closest("[data-polled]")) event.preventDefault();
});

// Buttons that end something ask first.
document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});
