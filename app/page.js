// The timeline under a video: its playhead follows, a click or a key on it seeks, and what was said, measured and
// looked at there is shown. One listener each for the whole document, because Gradio makes new elements whenever a
// value changes.
() => {
  const videoOf = (timeline) => document.querySelector(`#${timeline.dataset.video} video`);
  const last = (list, now) => list.filter(([at]) => at <= now + 0.01).at(-1)?.[1] ?? "";
  const parsed = new WeakMap(); // Gradio may give an element that is here already other attributes: [text, value]
  const told = (timeline) => {
    const text = timeline.dataset.told;
    if (parsed.get(timeline)?.[0] !== text) parsed.set(timeline, [text, JSON.parse(text)]);
    return parsed.get(timeline)[1]; // {steps, layers}
  };

  const show = (timeline, now) => {
    timeline.style.setProperty("--now", Math.min(now / timeline.dataset.length, 1));
    timeline.querySelector(".scrub").value = now;
    const layer = document.getElementById(`${timeline.dataset.video}-layer`);
    const drawn = last(told(timeline).layers, now);
    if (layer && layer.dataset.drawn !== drawn) {
      layer.dataset.drawn = drawn;
      layer.innerHTML = drawn;
    }
  };

  const tell = (timeline, now) => {
    const marks = [...timeline.querySelectorAll(".mark")].map((mark) => [+mark.dataset.at, mark.dataset.words]);
    const words = last(marks.sort(([one], [other]) => one - other), now);
    timeline.querySelector(".words").textContent = [words, last(told(timeline).steps, now)].filter(Boolean).join(" \u00b7 ");
  };

  const seek = (timeline, now) => {
    const video = videoOf(timeline);
    if (video) {
      video.pause();
      video.currentTime = now;
    }
    show(timeline, now);
    tell(timeline, now);
  };

  const follow = (event) => {
    for (const timeline of document.querySelectorAll(".timeline"))
      if (videoOf(timeline) === event.target) show(timeline, event.target.currentTime);
  };
  for (const kind of ["timeupdate", "seeking", "loadeddata"]) document.addEventListener(kind, follow, true);

  document.addEventListener("click", (event) => {
    const lane = event.target.closest(".timeline .lane");
    if (!lane || event.target.closest(".scrub")) return;
    const timeline = lane.closest(".timeline");
    const mark = event.target.closest(".mark");
    const box = lane.getBoundingClientRect();
    seek(timeline, mark ? +mark.dataset.at + 0.05 : ((event.clientX - box.left) / box.width) * timeline.dataset.length);
  });
  document.addEventListener("input", (event) => {
    if (event.target.matches(".timeline .scrub")) seek(event.target.closest(".timeline"), +event.target.value);
  });

  // Gradio gives example pictures no text for those who cannot see them.
  document.addEventListener("load", ({ target }) => {
    const all = [...document.querySelectorAll("#pictures img")];
    if (all.includes(target)) target.alt = `Example picture ${all.indexOf(target) + 1} of ${all.length}`;
  }, true);
}
