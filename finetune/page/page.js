// The sliders over steps.
(() => {
  "use strict";

  for (const steps of document.querySelectorAll(".steps")) {
    const [slider, output] = steps.querySelectorAll("input, output");
    const figures = steps.querySelectorAll("figure");
    slider.value = figures.length - 1;  // a browser may have kept another from before a reload
    slider.addEventListener("input", () => {
      figures.forEach((figure, i) => figure.classList.toggle("current", i === slider.valueAsNumber));
      output.textContent = figures[slider.valueAsNumber].dataset.step;
      slider.setAttribute("aria-valuetext", output.textContent);
    });
  }
})();
