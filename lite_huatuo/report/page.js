"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const root = document.documentElement;

  // Curves. Their colours come from the style sheet, so they are drawn again when it changes.
  function look() {
    const style = getComputedStyle(root);
    const of = (name) => style.getPropertyValue(name).trim();
    const text = { labelColor: of("--quiet"), titleColor: of("--quiet"), labelFontSize: 11, titleFontSize: 11 };
    return {
      aria: false, // the figure's own label says it
      background: null,
      font: getComputedStyle(document.body).fontFamily,
      padding: { left: 0, right: 6, top: 2, bottom: 0 },
      view: { stroke: null },
      axis: { ...text, titleFontWeight: "normal", domainColor: of("--line"), tickColor: of("--line"), gridColor: of("--grid") },
      legend: { ...text, labelColor: of("--text"), symbolType: "stroke", symbolStrokeWidth: 3, symbolOpacity: 1, columnPadding: 12 },
      range: { category: ["--c1", "--c2", "--c3", "--c4"].map(of) },
      style: {
        hover: { color: of("--quiet") },
        warned: { color: of("--warn"), strokeWidth: 1, strokeDash: [4, 4] },
        band: { opacity: 0.18 },
      },
    };
  }

  let views = [];
  async function draw() {
    delete root.dataset.drawn;
    views.forEach((view) => view.finalize());
    const config = look();
    const options = { actions: false, ast: true, renderer: "svg", defaultStyle: false, config, tooltip: { disableDefaultStyle: true } };
    views = await Promise.all(
      Object.entries(data.figures).map(([id, spec]) =>
        vegaEmbed($(id), { width: "container", height: "container", autosize: { type: "fit", contains: "padding" }, ...spec }, options)));
    root.dataset.drawn = "yes";
  }

  // A finger has no pointer that stays: where it touches a curve the values stay until it touches elsewhere.
  const pointer = (type, from) =>
    new PointerEvent(type, { bubbles: true, pointerType: "mouse", clientX: from.clientX, clientY: from.clientY });
  let touched = null;
  document.addEventListener("pointerdown", (event) => {
    touched?.target.dispatchEvent(pointer("pointerout", touched));
    touched = null;
    if (event.pointerType !== "touch" || !event.target.closest(".chart")) return;
    touched = event;
    event.target.dispatchEvent(pointer("pointermove", event));
  });
  document.addEventListener("pointerout", (event) => {
    if (event.pointerType === "touch" && event.target.closest?.(".chart")) event.stopPropagation();
  }, true);

  // Light and dark: as the system says, until the button says otherwise.
  const themes = { system: "system", light: "light", dark: "dark" };
  const button = $("theme");
  button.hidden = false;
  let theme = "system";
  button.addEventListener("click", () => {
    const names = Object.keys(themes);
    theme = names[(names.indexOf(theme) + 1) % names.length];
    if (theme === "system") delete root.dataset.theme;
    else root.dataset.theme = theme;
    button.textContent = `Colours: ${themes[theme]}`;
    draw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme === "system" && draw());
  draw();

  // Samples: one at a time. Every text is set as text.
  const pane = $("pane");
  if (!pane) return;
  let chosen = data.samples;
  let at = 0;

  function show() {
    const sample = chosen[at];
    $("place").textContent = sample ? `${at + 1} of ${chosen.length}` : "None is like that";
    $("previous").disabled = at === 0;
    $("next").disabled = at >= chosen.length - 1;
    $("sample").hidden = !sample;
    if (!sample) return;
    const badge = $("sample-verdict");
    badge.className = `verdict ${sample.verdict}`;
    badge.textContent = $("verdict").querySelector(`option[value="${sample.verdict}"]`).textContent;
    $("sample-from").textContent = sample.from;
    $("sample-numbers").textContent = `score ${sample.score}, ${sample.length} tokens${sample.stopped ? "" : ", cut at the limit"}`;
    for (const key of ["question", "truth", "said"]) $(`sample-${key}`).textContent = sample[key];
    const formed = "final" in sample;
    $("sample-formed").hidden = !formed;
    $("sample-raw").hidden = formed;
    $("sample-thinking").lastElementChild.textContent = formed ? sample.thinking : "";
    $("sample-final").textContent = formed ? sample.final : "";
    $("sample-reply").textContent = formed ? "" : sample.reply;
  }

  function go(place) {
    at = Math.max(0, Math.min(chosen.length - 1, place));
    show();
  }

  function filter() {
    const from = $("from").value;
    const verdict = $("verdict").value;
    chosen = data.samples.filter((one) => (!from || one.from === from) && (!verdict || one.verdict === verdict));
    go(0);
  }

  $("from").addEventListener("change", filter);
  $("verdict").addEventListener("change", filter);
  $("previous").addEventListener("click", () => go(at - 1));
  $("next").addEventListener("click", () => go(at + 1));
  pane.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const thinking = $("sample-thinking");
    const moves = {
      ArrowRight: () => go(at + 1), j: () => go(at + 1), ArrowLeft: () => go(at - 1), k: () => go(at - 1),
      Home: () => go(0), End: () => go(chosen.length - 1), t: () => (thinking.open = !thinking.open),
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    moves[event.key]();
  });
  filter(); // a browser may have kept the choices of an earlier visit
})();
