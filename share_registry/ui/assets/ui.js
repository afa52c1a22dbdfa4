// What pages can do more where a browser runs scripts: copy text, and keep addresses short.
"use strict";

// fields that were left empty are not in the address
document.addEventListener("htmx:configRequest", (event) => {
  const parameters = event.detail.parameters;
  for (const name of Object.keys(parameters)) {
    if (parameters[name] === "") delete parameters[name];
  }
});

// a button beside every text that is to be copied; where it cannot copy there is none
function addButtons() {
  if (!navigator.clipboard) return;
  for (const block of document.querySelectorAll(".code:not([data-ready])")) {
    const text = block.querySelector("pre");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy: ${block.dataset.name}`);
    button.addEventListener("click", async () => {
      // what stands behind a prompt alone can be typed
      const lines = text.textContent.trimEnd().split("\n").map((line) => line.replace(/^\$ /, ""));
      await navigator.clipboard.writeText(lines.join("\n"));
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    block.append(button);
    block.dataset.ready = "";
  }
}
document.addEventListener("DOMContentLoaded", addButtons);
document.addEventListener("htmx:load", addButtons);
