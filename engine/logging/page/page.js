// Copy buttons, images at full size.
(() => {
  "use strict";

  // Whether the text of an element is on the clipboard now; where that is refused it is at least selected.
  async function copy(element) {
    try {
      await navigator.clipboard.writeText(element.textContent);
      return true;
    } catch (refused) {
      console.info(`the clipboard is not open to this page (${refused.name}): the text is selected instead`);
      getSelection().selectAllChildren(element);
      return document.execCommand("copy");
    }
  }

  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      button.textContent = await copy(button.previousElementSibling) ? "Copied" : "Ctrl-C";
      setTimeout(() => { button.textContent = "Copy"; }, 1600);
    });
  }

  const dialog = document.querySelector("dialog");
  const large = dialog.querySelector("img");
  for (const button of document.querySelectorAll(".image")) {
    button.addEventListener("click", () => {
      const image = button.querySelector("img");
      large.src = image.src;
      large.alt = image.alt;
      dialog.showModal();
    });
  }
  dialog.addEventListener("click", (event) => { if (event.target.closest("button") === null) dialog.close(); });
})();
