// Adds copy buttons to commands, loads previews, and writes the box of a cutout into the command;
// the pages work without this script.
"use strict";
const previewPlace = document.querySelector("#preview[data-address]");
if (previewPlace) {
  previewPlace.querySelector("p").textContent = "Reading the file from the archive …";
  fetch(previewPlace.dataset.address + "&embedded=1")
    .then((reply) => reply.text())
    .then((text) => {
      const loaded = new DOMParser().parseFromString(text, "text/html").querySelector("#preview");
      previewPlace.replaceWith(loaded || "No preview at present; reload the page in a minute.");
    })
    .catch(() => { previewPlace.querySelector("p").textContent = "The preview cannot be loaded."; });
}
const liveRegion = document.createElement("p");
liveRegion.className = "unseen";
liveRegion.setAttribute("role", "status");
document.body.append(liveRegion);
for (const box of document.querySelectorAll(".copy")) {
  const text = box.querySelector("pre");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  const what = box.dataset.what || "text";
  button.setAttribute("aria-label", "Copy: " + what);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      const range = document.createRange();
      range.selectNodeContents(text);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      button.textContent = "Selected";
    }
    liveRegion.textContent = button.textContent + ": " + what;
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  box.append(button);
}
const cutoutForm = document.querySelector("form.cut");
if (cutoutForm) {
  const command = document.querySelector(
    "[data-what='export commands'] pre, [data-what='layer commands'] pre");
  const writeBox = () => {
    if (!cutoutForm.checkValidity()) return;
    const ranges = ["x", "y", "z"].map(
      (axis) => cutoutForm.elements[axis + "0"].value + ":" + cutoutForm.elements[axis + "1"].value);
    command.textContent = command.textContent
      .replace(/--box \S+/, "--box " + ranges.join(","))
      .replace(/\[-?\d+:[^\]]*\]/, "[" + ranges.join(", ") + "]")
      .replace(/--time \S+/, () => "--time " + cutoutForm.elements.t.value);
  };
  cutoutForm.addEventListener("input", writeBox);
  addEventListener("pageshow", writeBox);  // browsers restore the fields of a form
}
