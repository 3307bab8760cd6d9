// One listener for all answers that come: `element` stays, what is in it changes.
const wordsOf = (system) => [...system.querySelectorAll(".words:not([hidden]) .word")];

// Word 0 is none: the picture as it is.
function show(system, place) {
  const words = wordsOf(system);
  const slider = system.querySelector("input[type=range]");
  const shade = system.querySelector(".shade");
  words.forEach((word, at) => word.setAttribute("aria-pressed", at === place - 1));
  shade.hidden = place === 0;
  if (place) shade.src = words[place - 1].dataset.shade;
  slider.max = words.length;
  slider.disabled = words.length === 0;
  slider.value = place;
  slider.setAttribute("aria-valuetext", place ? words[place - 1].textContent : "the whole picture");
}

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  const system = button?.closest(".system");
  if (!system) return;
  if (button.matches(".word")) {
    show(system, button.getAttribute("aria-pressed") === "true" ? 0 : wordsOf(system).indexOf(button) + 1);
  } else if (button.matches(".caption")) {
    const captions = [...system.querySelectorAll(".caption")];
    captions.forEach((caption) => caption.setAttribute("aria-pressed", caption === button));
    system.querySelectorAll(".words").forEach((words, at) => (words.hidden = captions[at] !== button));
    if (system.querySelector(".words")) show(system, 0);
  }
});

element.addEventListener("input", (event) => {
  const system = event.target.closest(".system");
  if (system) show(system, Number(event.target.value));
});

watch("value", () => {
  element.querySelectorAll(".system:has(.words)").forEach((system) => show(system, 0));
  const answered = element.querySelector(".systems, .wrong");
  if (answered && matchMedia("(max-width: 700px)").matches) element.scrollIntoView();  // a telephone shows one column
});
