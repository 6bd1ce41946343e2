// Names for what Django's admin draws without one, so that a screen reader says which field it stands on.
"use strict";

function named() {
  // Fields with a search: select2 hides the select that the label belongs to.
  document.querySelectorAll("select.select2-hidden-accessible").forEach((select) => {
    const name = document.querySelector(`label[for="${select.id}"]`)?.textContent.trim().replace(/:$/, "") || select.name;
    const shown = select.nextElementSibling;
    shown?.querySelectorAll(".select2-selection, .select2-selection__rendered, .select2-search__field").forEach((part) => {
      part.removeAttribute("aria-labelledby");
      part.setAttribute("aria-label", name);
    });
  });
  // A question mark with a text is a picture.
  document.querySelectorAll(".help-tooltip[aria-label]").forEach((mark) => mark.setAttribute("role", "img"));
}
// Select2 draws its fields in a timer of its own, which was set before this one.
window.addEventListener("load", () => setTimeout(named));
// A row that is added to a form brings fields of its own.
document.addEventListener("formset:added", () => setTimeout(named));
