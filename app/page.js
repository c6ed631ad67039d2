// The timeline under a video: its playhead follows, a click on it seeks. One listener each for the whole document,
// because Gradio makes new elements whenever a value changes.
() => {
  const videoOf = (timeline) => document.querySelector(`#${timeline.dataset.video} video`);

  const follow = (event) => {
    for (const timeline of document.querySelectorAll(".timeline"))
      if (videoOf(timeline) === event.target)
        timeline.style.setProperty("--now", Math.min(event.target.currentTime / timeline.dataset.length, 1));
  };
  for (const kind of ["timeupdate", "seeking", "loadeddata"]) document.addEventListener(kind, follow, true);

  document.addEventListener("click", (event) => {
    const lane = event.target.closest(".timeline .lane");
    if (!lane) return;
    const timeline = lane.closest(".timeline");
    const video = videoOf(timeline);
    const mark = event.target.closest(".mark");
    if (mark) timeline.querySelector(".words").textContent = mark.dataset.words;
    if (!video) return;
    const box = lane.getBoundingClientRect();
    video.currentTime = mark ? +mark.dataset.at + 0.05 : ((event.clientX - box.left) / box.width) * timeline.dataset.length;
  });

  // Gradio gives example pictures no text for those who cannot see them.
  document.addEventListener("load", ({ target }) => {
    const all = [...document.querySelectorAll("#pictures img")];
    if (all.includes(target)) target.alt = `Example picture ${all.indexOf(target) + 1} of ${all.length}`;
  }, true);
}
