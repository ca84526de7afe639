// The slider between two pictures: the range input is what mouse, touch, keyboard and screen readers use.
(() => {
  const slide = document.getElementById("slide"), slider = document.getElementById("slider");
  if (!slide) return;
  const show = () => slider.style.setProperty("--at", slide.value + "%");
  slide.addEventListener("input", show);
  const follow = event => {
    const box = slider.getBoundingClientRect();
    slide.value = Math.round(100 * Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)));
    show();
  };
  slider.addEventListener("pointerdown", event => { slider.setPointerCapture(event.pointerId); follow(event); });
  slider.addEventListener("pointermove", event => { if (slider.hasPointerCapture(event.pointerId)) follow(event); });
  show();
})();
