// Without this script everything works; with it, commands are copied by a button.
"use strict";
const said = document.createElement("p");
said.className = "unseen";
said.setAttribute("role", "status");
document.body.append(said);
for (const place of document.querySelectorAll(".copy")) {
  const text = place.querySelector("pre");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  const what = place.dataset.what || "text";
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
    said.textContent = button.textContent + ": " + what;
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  place.append(button);
}
