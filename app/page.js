// The timeline under a video: its playhead follows, a click or a key on it seeks, and what was said, measured and
// looked at there is shown. One listener each for the whole document, because Gradio makes new elements whenever a
// value changes. And what Gradio leaves out for keyboards and screen readers.
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
    const lines = [words, last(told(timeline).steps, now)].filter(Boolean).map((text) => {
      const line = document.createElement("span");
      line.textContent = text;
      return line;
    });
    timeline.querySelector(".words").replaceChildren(...lines.flatMap((line, index) => (index ? [" \u00b7 ", line] : [line])));
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
  const load = () => {
    for (const video of document.querySelectorAll("video[data-src]")) {
      if (video.getAttribute("src") === video.dataset.src) continue;
      for (const words of video.textTracks) words.mode = "disabled"; // or the last ones stay over what comes
      video.src = video.dataset.src;
      for (const words of video.textTracks) words.mode = "showing";
    }
  };
  new MutationObserver(load).observe(document.body, { subtree: true, childList: true, attributeFilter: ["data-src"] });
  load();

  // What is to play by itself is shown: browsers start no video that is out of sight.
  document.addEventListener("loadstart", ({ target }) => target.autoplay && target.scrollIntoView({ block: "nearest" }), true);

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

  // Pictures have a text that says what they show; the camera's is what its line says: what goes on, and at which step.
  const line = (id) => [...document.querySelectorAll(`#${id} .status > :is(b, span)`)].slice(0, 2).map((part) => part.textContent).join(", ");
  const describe = (picture) => {
    const all = [...document.querySelectorAll("#pictures img")];
    const camera = picture.closest("#camera, .arm-camera");
    if (all.includes(picture)) picture.alt = `Example picture ${all.indexOf(picture) + 1} of ${all.length}`;
    else if (camera) picture.alt = `Robot camera: ${line(camera.id.replace("camera", "status"))}`;
    else if (picture.closest("#picture")) picture.alt = "The picture to ask about";
  };
  document.addEventListener("load", ({ target }) => target.matches?.("img") && describe(target), true);

  const heights = new WeakMap();
  const mend = () => {
    for (const log of document.querySelectorAll(".thoughts")) { // follow what is written, unless somebody scrolled back
      if (log.scrollTop + log.clientHeight + 8 >= (heights.get(log) ?? 0)) log.scrollTop = log.scrollHeight;
      heights.set(log, log.scrollHeight);
    }
    for (const camera of document.querySelectorAll(":is(#camera, .arm-camera) button")) camera.tabIndex = -1; // it does nothing
    for (const picture of document.querySelectorAll("#pictures img")) if (!picture.alt) describe(picture);
    for (const head of document.querySelectorAll(".label-wrap")) head.ariaExpanded = head.classList.contains("open");
    for (const panel of document.querySelectorAll("[role=tabpanel][id]")) panel.setAttribute("aria-labelledby", `${panel.id}-button`);
    for (const empty of document.querySelectorAll(".empty[aria-label]")) empty.role = "img";
  };
  let due = false; // at most once per frame: reading heights makes the browser lay out the page
  const soon = () => {
    if (!due) requestAnimationFrame(() => ((due = false), mend()));
    due = true;
  };
  new MutationObserver(soon).observe(document.body, { subtree: true, childList: true, characterData: true });
  document.addEventListener("click", () => setTimeout(soon, 100));
  document.querySelectorAll("img").forEach(describe);
  mend();
}
