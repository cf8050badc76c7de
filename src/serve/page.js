// The page: what it shows follows from `state`, which the address holds; all calls go to this server.

const $ = (id) => document.getElementById(id);

/** An element with properties and children; texts are texts, never markup. */
function el(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria") || key === "role") element.setAttribute(key.replace(/[A-Z]/g, (c) => "-" + c.toLowerCase()), value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// ---------------------------------------------------------------- state and address

const FIRST = { caption: "", seed: 0, noise: 1, truncation: null, condition: 1, sentence: 1, swap: null, grid: false };
const NUMBERS = ["noise", "condition", "sentence"];
let state = { ...FIRST };
let model = null;
let vocabulary = [];
let known = new Set();
let shown = null; // the picture that is there: words, stages, review
let other = null; // the one with another word

/** The state as the fragment of an address; what is as it was at first is left out. */
function fragment() {
  const parts = new URLSearchParams();
  if (state.caption) parts.set("caption", state.caption);
  if (state.seed) parts.set("seed", state.seed);
  if (state.truncation !== null) parts.set("truncation", state.truncation);
  for (const key of NUMBERS) if (state[key] !== 1) parts.set(key, state[key]);
  if (state.swap) parts.set("swap", `${state.swap.at}:${state.swap.word}`);
  if (state.grid) parts.set("grid", "1");
  return "#" + parts;
}

function readFragment() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const number = (key, low, high, otherwise) => {
    const value = Number.parseFloat(parts.get(key));
    return Number.isFinite(value) ? Math.min(high, Math.max(low, value)) : otherwise;
  };
  const [at, word] = (parts.get("swap") ?? "").split(/:(.*)/s);
  return {
    caption: (parts.get("caption") ?? "").slice(0, 1000),
    seed: Math.floor(number("seed", 0, 4294967295, 0)),
    truncation: number("truncation", 0.05, 1, null),
    noise: number("noise", 0, 3, 1),
    condition: number("condition", 0, 3, 1),
    sentence: number("sentence", 0, 3, 1),
    swap: word && /^\d+$/.test(at) ? { at: Number(at), word } : null,
    grid: parts.get("grid") === "1",
  };
}

const remember = () => history.replaceState(null, "", fragment());

function showState() {
  $("caption").value = state.caption;
  $("seed").value = state.seed;
  for (const key of NUMBERS) $(key).value = state[key];
  $("truncation").value = state.truncation ?? 1.1;
  showOutputs();
}

function showOutputs() {
  const truncation = Number($("truncation").value);
  for (const output of document.querySelectorAll(".controls output")) {
    const key = output.htmlFor.value;
    const text = key === "truncation" && truncation > 1 ? "off" : Number($(key).value).toFixed(2);
    output.textContent = text;
    $(key).setAttribute("aria-valuetext", text);
  }
}

// ---------------------------------------------------------------- calls

class Problem extends Error {
  constructor({ error, hint }) {
    super(error);
    this.hint = hint;
  }
}

async function call(path, body, signal) {
  for (;;) {
    const token = sessionStorage.getItem("token");
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    if (body) headers["Content-Type"] = "application/json";
    const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
    if (response.ok) return response;
    if (response.status === 401) await askToken();
    else throw new Problem(await response.json().catch(() => ({ error: `the server answered ${response.status}` })));
  }
}

/** Asks once, however many calls wait. */
let asking = null;
function askToken() {
  asking ??= new Promise((resolve) => {
    $("token").value = "";
    $("ask").showModal();
    $("ask").addEventListener("close", () => {
      sessionStorage.setItem("token", $("token").value.trim());
      asking = null;
      resolve();
    }, { once: true });
  });
  return asking;
}

/** Calls `hear(kind, value)` with every event until the last. */
async function listen(body, signal, hear) {
  const response = await call("/api/stream", body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "", isDone = false; !isDone; ) {
    const { value, done } = await reader.read();
    if (done) throw new Problem({ error: "the server broke off", hint: "generate again" });
    const messages = (rest + value).split("\n\n");
    rest = messages.pop();
    for (const message of messages) {
      const [, kind, data] = message.match(/^event: (\w+)\ndata: (.*)$/s) ?? [];
      if (kind === "error") throw new Problem(JSON.parse(data));
      if (kind === "done") isDone = true;
      else if (kind) hear(kind, JSON.parse(data));
    }
  }
}

function complain(problem) {
  if (problem?.name === "AbortError") return;
  const isOurs = problem instanceof Problem;
  const hint = isOurs ? problem.hint : "is the server still there?";
  $("problem").replaceChildren(el("b", {}, isOurs ? problem.message : "The server cannot be reached"), hint ?? "");
  $("problem").hidden = false;
}

const settings = () => ({
  noise: state.noise, truncation: state.truncation, condition: state.condition, sentence: state.sentence,
});

// ---------------------------------------------------------------- one picture

const jobs = {};

/** Begins a job of a kind; one of the same kind that is still at work is given up. */
function begin(kind) {
  jobs[kind]?.abort();
  jobs[kind] = new AbortController();
  return jobs[kind].signal;
}

const address = (png) => `data:image/png;base64,${png}`;
let seconds = 0;

async function generate() {
  remember();
  $("problem").hidden = true;
  if (!state.caption.trim()) return;
  const signal = begin("picture");
  const began = performance.now();
  document.body.classList.add("working");
  $("status").textContent = "waiting";
  const next = { caption: state.caption, words: [], stages: [], review: null };
  try {
    await listen({ caption: state.caption, seeds: [state.seed], ...settings() }, signal, (kind, value) => {
      if (kind === "queued") {
        next.words = value.prompt.words;
        shown = next;
        $("status").textContent = value.before ? `${value.before} before this one` : "generating";
      } else if (kind === "stage") {
        next.stages[value.stage] = value;
        showPicture();
      } else if (kind === "review") {
        next.review = value;
      }
    });
    seconds = (performance.now() - began) / 1000;
    $("status").textContent = `${seconds.toFixed(2)} s`;
    showPicture();
    showWords();
    showReview();
    await generateSwapped();
    document.documentElement.dataset.ready = "yes";
  } catch (problem) {
    if (!signal.aborted) $("status").textContent = "";
    complain(problem);
  } finally {
    if (!signal.aborted) document.body.classList.remove("working");
  }
}

let looked = null; // the stage that is looked at; the newest where none is chosen

function showPicture() {
  const { stages, caption } = shown;
  const last = stages.length - 1;
  const stage = stages[Math.min(looked ?? last, last)];
  if (!stage) return;
  $("picture").tabIndex = 0;
  fill($("picture"), stage, `Picture of “${caption}”, ${stage.side} by ${stage.side} pixels`);
  const sides = model.sides;
  $("stages").replaceChildren(...sides.map((side, i) => {
    const image = stages[i] && el("img", { src: address(stages[i].png), alt: `Stage ${i + 1}` });
    const button = el("button", { type: "button", disabled: !stages[i], ariaPressed: String(stages[i] === stage), ariaLabel: `Stage ${i + 1}, ${side} pixels` }, image ?? null);
    button.addEventListener("click", () => { looked = i === sides.length - 1 ? null : i; showPicture(); $("stages").children[i].firstChild.focus(); });
    return el("li", {}, button, `${side}²`);
  }));
  if (!other) $("original").lastElementChild.textContent = "";
}

/** Puts a stage's picture into a frame. What lies over it stays until it is another picture's. */
function fill(frame, stage, label) {
  let image = frame.querySelector("img");
  frame.querySelector(".empty")?.remove();
  if (!image) frame.append(image = el("img", { alt: "" }));
  image.src = address(stage.png);
  frame.classList.toggle("coarse", stage.side < 128);
  frame.setAttribute("role", "img");
  frame.setAttribute("aria-label", label);
}

// ---------------------------------------------------------------- attention

/** The finest map: [words][height][width] of bytes, 255 is `largest`. */
function attention(picture = shown) {
  const stage = picture?.stages.findLast((stage) => stage?.attention);
  if (!stage) return null;
  stage.map ??= { ...stage.attention, values: Uint8Array.from(atob(stage.attention.values), (c) => c.charCodeAt(0)) };
  return stage.map;
}

/** From dark violet to bright yellow, even to the eye. */
function heat(at) {
  const stops = [[87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];
  const place = Math.min(0.999, at) * (stops.length - 1);
  const [from, to] = [stops[Math.floor(place)], stops[Math.floor(place) + 1]];
  return from.map((value, i) => value + (to[i] - value) * (place % 1));
}

/** Draws values from 0 to 1 over a frame; nothing is drawn at 0. */
function light(frame, width, height, values) {
  frame.querySelector("canvas")?.remove();
  const canvas = el("canvas", { width, height });
  const pixels = new ImageData(width, height);
  values.forEach((at, i) => pixels.data.set([...heat(at), Math.sqrt(at) * 225], i * 4));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  frame.querySelector("img").after(canvas);
  canvas.offsetWidth; // so that the change of opacity is seen
  frame.classList.add("lit");
}

const dim = () => { if ($("changed").ariaPressed !== "true") document.querySelectorAll(".frame.lit").forEach((frame) => frame.classList.remove("lit")); };

/** Where a word looks, beyond an even share of all words. */
function lookAlong(word) {
  const map = attention();
  if (!map || word >= map.words) return;
  const size = map.width * map.height, even = 255 / map.words / (map.largest || 1);
  const own = map.values.subarray(word * size, (word + 1) * size);
  light($("picture"), map.width, map.height, Array.from(own, (value) => Math.max(0, (value - even) / Math.max(1, 255 - even))));
  const most = Math.max(...own) / 255 * map.largest;
  $("looks").textContent = `“${shown.words[word]}” has at most ${percent(most)} of a place’s attention; an even share is ${percent(1 / map.words)}.`;
}

const signed = (value) => value.toFixed(2).replace("-", "−");
const percent = (share) => `${Math.round(share * 100)} %`;
let point = [0.5, 0.5];

/** Which words look at a place, x and y from 0 to 1. */
function lookAt(x, y, speak) {
  const map = attention();
  if (!map) return;
  point = [x, y].map((at) => Math.min(0.999, Math.max(0, at)));
  const place = Math.floor(point[1] * map.height) * map.width + Math.floor(point[0] * map.width);
  const shares = shown.words.map((word, i) => ({ word, i, share: map.values[i * map.width * map.height + place] / 255 * map.largest }));
  const most = Math.max(...shares.map((of) => of.share)) || 1;
  for (const { i, share } of shares) {
    const button = $("words").children[i]?.firstChild;
    button?.classList.toggle("near", share > 1 / map.words);
    button?.style.setProperty("--share", share / most);
  }
  const first = shares.toSorted((a, b) => b.share - a.share).slice(0, 4);
  const frame = $("picture");
  frame.querySelectorAll(".point, .tip").forEach((old) => old.remove());
  const mark = el("span", { className: "point" });
  mark.style.left = `${point[0] * 100}%`;
  mark.style.top = `${point[1] * 100}%`;
  frame.append(mark, el("span", { className: "tip" }, ...first.map(({ word, share }) => el("div", {}, word, el("span", {}, percent(share))))));
  if (speak) $("looks").textContent = `Here look ${first.map(({ word, share }) => `${word} ${percent(share)}`).join(", ")}.`;
}

function lookAway() {
  $("picture").querySelectorAll(".point, .tip").forEach((old) => old.remove());
  for (const item of $("words").children) item.firstChild.classList.remove("near");
  $("looks").textContent = "";
}

function wirePicture() {
  const frame = $("picture");
  const at = (event) => {
    const box = frame.getBoundingClientRect();
    dim();
    lookAt((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height, false);
  };
  frame.addEventListener("pointermove", at);
  frame.addEventListener("pointerdown", at);
  frame.addEventListener("pointerleave", lookAway);
  frame.addEventListener("blur", lookAway);
  frame.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Escape") lookAway();
    if (!step) return;
    event.preventDefault();
    lookAt(point[0] + step[0] / 16, point[1] + step[1] / 16, true);
  });
}

// ---------------------------------------------------------------- words and swaps

function showWords() {
  const matches = shown.review?.match?.words;
  $("words").replaceChildren(...shown.words.map((word, i) => {
    const match = matches?.[i];
    const button = el("button", { type: "button", ariaExpanded: "false", ariaLabel: match === undefined ? word : `${word}, match ${match.toFixed(2)}` },
      el("span", {}, word), match === undefined ? null : el("small", {}, signed(match)));
    if (match !== undefined) {
      const bar = el("i");
      bar.style.width = `${Math.max(0, match) * 100}%`;
      button.append(bar);
    }
    for (const kind of ["pointerenter", "focus"]) button.addEventListener(kind, () => lookAlong(i));
    for (const kind of ["pointerleave", "blur"]) button.addEventListener(kind, () => { dim(); $("looks").textContent = ""; });
    button.addEventListener("click", () => openSwap(i, button));
    return el("li", {}, button);
  }));
  $("match-note").hidden = !matches;
}

/** Words that people swap for each other; those that a run does not know are left out. */
const KINDS = [
  "red orange yellow green blue purple pink brown black white grey gray",
  "small large big little tiny short long",
  "bill beak wings wing tail crown head belly breast body eyes feet",
  "water sky tree branch leaves grass snow",
].map((kind) => kind.split(" "));

let swapping = null;

function openSwap(at, button) {
  closeSwap();
  swapping = { at, button };
  button.ariaExpanded = "true";
  const word = shown.words[at];
  $("swap").querySelector("label").textContent = `In place of “${word}”, with the same noise:`;
  const alike = KINDS.find((kind) => kind.includes(word)) ?? [];
  $("picks").replaceChildren(...alike.filter((pick) => pick !== word && known.has(pick)).map((pick) => {
    const choice = el("button", { type: "button" }, pick);
    choice.addEventListener("click", () => swapFor(pick));
    return choice;
  }));
  $("other").value = "";
  $("swap").hidden = false;
  $("other").focus();
}

function closeSwap() {
  if (swapping) swapping.button.ariaExpanded = "false";
  swapping = null;
  $("swap").hidden = true;
}

function swapFor(word) {
  const clean = word.trim().toLowerCase();
  if (!swapping || !clean) return;
  state.swap = { at: swapping.at, word: clean };
  closeSwap();
  remember();
  generateSwapped().catch(complain);
}

/** The caption's words as they are used, one of them another. */
const swappedWords = () => shown.words.map((word, i) => (i === state.swap.at ? state.swap.word : word));

async function generateSwapped() {
  mark(false);
  if (!state.swap || state.swap.at >= (shown?.words.length ?? 0)) return showSwapped(null);
  const signal = begin("swap");
  const next = { words: swappedWords(), stages: [] };
  await listen({ caption: next.words.join(" "), seeds: [state.seed], ...settings(), attention: false, review: false }, signal, (kind, value) => {
    if (kind === "queued" && value.prompt.unknown.length) {
      const [word] = value.prompt.unknown;
      state.swap = null;
      remember();
      showSwapped(null);
      throw new Problem({ error: `“${word}” is not a word of this run`, hint: "choose one that completion offers" });
    }
    if (kind === "stage") {
      next.stages[value.stage] = value;
      showSwapped(next);
    }
  });
}

function showSwapped(picture) {
  other = picture;
  $("swapped").hidden = !picture;
  // What compares both pictures, or takes them along, waits for the last stage.
  for (const id of ["swap-actions", "gif-caption"]) $(id).hidden = picture?.stages.length !== model.sides.length;
  const caption = (words) => words.flatMap((word, i) => [i ? " " : "", i === state.swap.at ? el("mark", {}, word) : word]);
  $("original").lastElementChild.replaceChildren(...(picture ? caption(shown.words) : []));
  if (!picture) return;
  $("swapped").lastElementChild.replaceChildren(...caption(picture.words));
  fill($("swapped").firstElementChild, picture.stages.at(-1), `Picture of “${picture.words.join(" ")}”`);
}

/** Smaller changes than this share of the largest are not marked. */
const FAINT = 0.2;

/** Marks in both pictures how far every pixel moved, the mean of its channels; the scale is full at 0.1 at least. */
async function mark(isOn) {
  $("changed").ariaPressed = String(isOn);
  if (!isOn) return dim();
  const pixels = await Promise.all([shown, other].map(async (picture) => {
    const image = el("img", { src: address(picture.stages.at(-1).png) });
    await image.decode();
    const context = el("canvas", { width: image.naturalWidth, height: image.naturalHeight }).getContext("2d");
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, image.naturalWidth, image.naturalHeight);
  }));
  // Meanwhile another picture may have begun.
  if ($("changed").ariaPressed !== "true") return;
  const [a, b] = pixels.map((of) => of.data);
  const moved = Array.from({ length: a.length / 4 }, (_, i) => [0, 1, 2].reduce((sum, c) => sum + Math.abs(a[4 * i + c] - b[4 * i + c]), 0) / 765);
  const most = moved.reduce((x, y) => Math.max(x, y), 0.1);
  for (const frame of [$("picture"), $("swapped").firstElementChild]) light(frame, pixels[0].width, pixels[0].height, moved.map((value) => Math.max(0, value / most - FAINT) / (1 - FAINT)));
}

function wireSwap() {
  $("swap").addEventListener("submit", (event) => { event.preventDefault(); swapFor($("other").value); });
  $("swap").addEventListener("keydown", (event) => { if (event.key === "Escape") { const { button } = swapping; closeSwap(); button.focus(); } });
  $("no-swap").addEventListener("click", closeSwap);
  $("changed").addEventListener("click", () => mark($("changed").ariaPressed !== "true"));
  $("drop").addEventListener("click", () => { state.swap = null; remember(); mark(false); showSwapped(null); });
  $("keep").addEventListener("click", () => {
    change({ caption: other.words.join(" "), swap: null });
    showSwapped(null);
    read();
  });
}

// ---------------------------------------------------------------- what the other networks say

function meter(name, value, text) {
  const bar = el("b");
  bar.style.width = `${Math.min(1, Math.max(0, value)) * 100}%`;
  return el("div", { className: "meter" }, el("span", {}, name), el("i", {}, bar), el("span", {}, text));
}

function showReview() {
  const { description, match } = shown.review ?? {};
  $("review").hidden = !description && !match;
  const own = new Set(shown.words);
  $("described").replaceChildren(...(description ? [
    el("q", {}, ...description.words.flatMap(({ word, probability }, i) => {
      const span = el("span", { className: own.has(word) ? "again" : "", title: `${percent(probability)} sure` }, word);
      span.style.opacity = 0.45 + 0.55 * probability;
      return [i ? " " : "", span];
    })),
    meter("STREAM’s confidence", description.confidence, percent(description.confidence)),
  ] : []));
  $("matched").replaceChildren(...(match ? [meter("DAMSM’s match", match.sentence, signed(match.sentence))] : []));
}

// ---------------------------------------------------------------- seeds

async function showGrid() {
  state.grid = true;
  remember();
  if (!state.caption.trim()) return;
  const count = Math.min(12, model.limits.samples);
  const first = Math.floor(state.seed / count) * count;
  const seeds = Array.from({ length: count }, (_, i) => first + i);
  const places = seeds.map((seed) => {
    const button = el("button", { type: "button", ariaCurrent: String(seed === state.seed), ariaLabel: `Seed ${seed}` }, el("div"), el("span", {}, `seed ${seed}`));
    button.addEventListener("click", () => { change({ seed }); $("picture").scrollIntoView({ block: "nearest" }); });
    return button;
  });
  $("tiles").replaceChildren(...places.map((button) => el("li", {}, button)));
  await listen({ caption: state.caption, seeds, ...settings(), attention: false, review: false }, begin("grid"), (kind, value) => {
    if (kind !== "stage") return;
    const image = el("img", { src: address(value.png), alt: "", className: value.side < 128 ? "coarse" : "" });
    places[value.sample].firstChild.replaceWith(image);
  });
  document.documentElement.dataset.grid = "yes";
}

function markSeed() {
  for (const { firstChild: button } of $("tiles").children) button.ariaCurrent = String(button.ariaLabel === `Seed ${state.seed}`);
}

// ---------------------------------------------------------------- the caption

/** The words of a text as the server's tokenizer cuts them, with their places. */
function runs(text) {
  const isAscii = model?.tokenizer === "attngan";
  const clean = (run) => (isAscii ? run.toLowerCase().replace(/[^\x00-\x7f]/g, "") : run.toLowerCase());
  return Array.from(text.matchAll(/[\p{L}\p{N}\p{M}_]+/gu), (match) => ({ word: clean(match[0]), from: match.index, to: match.index + match[0].length }));
}

/** Asks the server which words it knows, and marks the others. */
async function read() {
  const text = $("caption").value;
  try {
    const said = text.trim() ? await (await call("/api/prompt", { caption: text }, begin("read"))).json() : { unknown: [], beyond: [] };
    const unknown = new Set(said.unknown.map(({ word }) => word));
    const all = runs(text), beyond = all.filter(({ word }) => !unknown.has(word)).slice(said.words?.length ?? 0);
    const parts = [];
    let at = 0;
    for (const run of all) {
      const isBegun = typed()?.end === run.to && !$("completions").hidden;
      const kind = isBegun ? null : unknown.has(run.word) ? "unknown" : beyond.includes(run) ? "beyond" : null;
      if (!kind) continue;
      parts.push(text.slice(at, run.from), el("span", { className: kind }, text.slice(run.from, run.to)));
      at = run.to;
    }
    $("marks").replaceChildren(...parts, text.slice(at), "\n");
    $("marks").scrollTop = $("caption").scrollTop;
    // A word that completion is about to end is not wrong yet.
    const begun = $("completions").hidden ? null : typed()?.word.toLowerCase();
    showReading({ ...said, unknown: said.unknown.filter(({ word }) => word !== begun) });
  } catch (problem) {
    complain(problem);
  }
}

function showReading({ unknown, beyond }) {
  const lines = unknown.map(({ word, suggestions }) => el("p", {}, el("em", {}, word), suggestions.length ? " is not a word of this run. Did you mean" : " is not a word of this run, and is left out.",
    ...suggestions.map((suggestion) => {
      const button = el("button", { type: "button" }, suggestion);
      button.addEventListener("click", () => replaceWord(word, suggestion));
      return button;
    })));
  if (beyond.length) lines.push(el("p", {}, `A caption has at most ${model.longest_caption} words here; left out: ${beyond.join(" ")}.`));
  $("reading").replaceChildren(...lines);
}

function replaceWord(word, by) {
  const text = $("caption").value;
  const run = runs(text).find((run) => run.word === word);
  if (!run) return;
  $("caption").value = text.slice(0, run.from) + by + text.slice(run.to);
  $("caption").focus();
  read();
}

/** The word that the cursor ends, and where it begins. */
function typed() {
  const { value, selectionStart: end, selectionEnd } = $("caption");
  if (end !== selectionEnd || /[\p{L}\p{N}_]/u.test(value[end] ?? "")) return null;
  const [word] = value.slice(0, end).match(/[\p{L}\p{N}\p{M}_]+$/u) ?? [];
  return word ? { word, from: end - word.length, end } : null;
}

let active = -1;

function complete() {
  const now = typed();
  const start = now?.word.toLowerCase();
  const found = now ? vocabulary.filter((word) => word.startsWith(start) && word !== start).slice(0, 6) : [];
  active = -1;
  $("completions").hidden = found.length === 0;
  if (found.length) placeCompletions(now.from);
  $("caption").removeAttribute("aria-activedescendant");
  $("completions").replaceChildren(...found.map((word, i) => {
    const option = el("li", { id: `completion-${i}`, role: "option", ariaSelected: "false" }, el("b", {}, word.slice(0, start.length)), word.slice(start.length));
    option.addEventListener("pointerdown", (event) => { event.preventDefault(); accept(word); });
    return option;
  }));
}

/** Below the word that is typed, which the marks behind the text tell. */
function placeCompletions(from) {
  const text = $("caption").value;
  const place = el("span", {}, "\u200b");
  $("marks").replaceChildren(text.slice(0, from), place, text.slice(from), "\n");
  const room = $("caption").offsetWidth - $("completions").offsetWidth;
  $("completions").style.left = `${Math.max(0, Math.min(room, place.offsetLeft - 13))}px`;
  $("completions").style.top = `${place.offsetTop + place.offsetHeight + 6 - $("caption").scrollTop}px`;
}

function choose(step) {
  const options = [...$("completions").children];
  active = (active + step + options.length + 1) % (options.length + 1);
  if (active === options.length) active = -1;
  options.forEach((option, i) => { option.ariaSelected = String(i === active); });
  if (active < 0) $("caption").removeAttribute("aria-activedescendant");
  else $("caption").setAttribute("aria-activedescendant", `completion-${active}`);
}

function accept(word) {
  const now = typed();
  if (!now) return;
  const text = $("caption").value;
  const space = /^\s/.test(text.slice(now.end)) ? "" : " ";
  $("caption").value = text.slice(0, now.from) + word + space + text.slice(now.end);
  const at = now.from + word.length + 1;
  $("caption").setSelectionRange(at, at);
  complete();
  readSoon();
}

function later(work, milliseconds) {
  let timer;
  return () => { clearTimeout(timer); timer = setTimeout(work, milliseconds); };
}
const readSoon = later(read, 180);

function wireCaption() {
  const caption = $("caption");
  caption.addEventListener("input", () => { $("marks").replaceChildren(caption.value, "\n"); complete(); readSoon(); });
  caption.addEventListener("scroll", () => { $("marks").scrollTop = caption.scrollTop; });
  caption.addEventListener("blur", () => { $("completions").hidden = true; });
  caption.addEventListener("keydown", (event) => {
    const options = $("completions").hidden ? [] : [...$("completions").children];
    if (options.length && ["ArrowDown", "ArrowUp"].includes(event.key)) {
      event.preventDefault();
      choose(event.key === "ArrowDown" ? 1 : -1);
    } else if (active >= 0 && ["Enter", "Tab"].includes(event.key)) {
      event.preventDefault();
      accept(options[active].textContent);
    } else if (event.key === "Escape") {
      $("completions").hidden = true;
      active = -1;
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      $("compose").requestSubmit();
    }
  });
  $("compose").addEventListener("submit", (event) => {
    event.preventDefault();
    $("completions").hidden = true;
    change({ caption: caption.value, swap: caption.value === state.caption ? state.swap : null });
  });
}

// ---------------------------------------------------------------- controls and downloads

/** Takes over what changed, and makes all anew that follows from it. */
function change(changes) {
  const before = state;
  state = { ...state, ...changes };
  showState();
  markSeed();
  generate();
  const isOther = Object.keys(changes).some((key) => !["seed", "swap"].includes(key) && before[key] !== state[key]);
  const inGrid = [...$("tiles").children].some((item) => item.firstChild.ariaLabel === `Seed ${state.seed}`);
  if (state.grid && (isOther || !inGrid)) showGrid().catch(complain);
}

function wireControls() {
  const apply = () => change({
    ...Object.fromEntries(NUMBERS.map((key) => [key, Number($(key).value)])),
    truncation: Number($("truncation").value) > 1 ? null : Number($("truncation").value),
  });
  const soon = later(apply, 120);
  // Where a picture takes long, the end of a movement counts.
  $("controls").addEventListener("input", () => { showOutputs(); if (seconds < 1) soon(); });
  $("controls").addEventListener("change", () => { if (seconds >= 1) apply(); });
  $("seed").addEventListener("change", () => change({ seed: Math.min(4294967295, Math.max(0, Math.floor(Number($("seed").value)) || 0)) }));
  $("another").addEventListener("click", () => change({ seed: Math.floor(Math.random() * 10000) }));
  $("reset").addEventListener("click", () => change({ ...FIRST, caption: state.caption, grid: state.grid }));
  $("grid").addEventListener("click", () => showGrid().catch(complain));
}

function save(blob, name) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const fileName = (ending) => `${(shown?.words ?? []).join("-").slice(0, 60) || "picture"}-${state.seed}.${ending}`;

async function saveGif(more, button) {
  button.disabled = true;
  try {
    const response = await call("/api/animate", { caption: state.caption, seeds: [state.seed], ...settings(), ...more }, begin("gif"));
    save(await response.blob(), fileName("gif"));
  } catch (problem) {
    complain(problem);
  } finally {
    button.disabled = false;
  }
}

function wireDownloads() {
  const when = (id, work) => $(id).addEventListener("click", () => { if (shown?.stages.length) work($(id)); });
  when("png", () => save(pngBlob(shown.stages.at(-1).png), fileName("png")));
  when("gif-stages", (button) => saveGif({ way: "stages" }, button));
  when("gif-noise", (button) => saveGif({ way: "noise", seeds: [state.seed, state.seed + 1], frames: 16 }, button));
  when("gif-caption", (button) => saveGif({ way: "caption", to: other.words.join(" "), frames: 16 }, button));
  $("link").addEventListener("click", async () => {
    remember();
    await navigator.clipboard.writeText(location.href).catch(() => prompt("The link:", location.href));
    $("status").textContent = "link copied";
  });
}

const pngBlob = (png) => new Blob([Uint8Array.from(atob(png), (c) => c.charCodeAt(0))], { type: "image/png" });

// ---------------------------------------------------------------- begin

/** What an empty studio offers; captions with words that the run lacks are left out. */
const EXAMPLES = [
  "a small red bird with black wings",
  "a blue bird with a white belly",
  "this bird has a yellow crown and a long bill",
  "a small bird with a red belly and a short beak",
];

function showExamples() {
  const able = EXAMPLES.filter((caption) => caption.split(" ").every((word) => known.has(word))).slice(0, 3);
  const buttons = able.map((caption) => {
    const button = el("button", { type: "button" }, caption);
    button.addEventListener("click", () => { change({ caption }); read(); });
    return button;
  });
  $("picture").replaceChildren(el("div", { className: "empty" }, able.length ? "Write a caption, or begin with one of these" : "Write a caption and press Enter", ...buttons));
}

async function start() {
  wirePicture();
  wireCaption();
  wireSwap();
  wireControls();
  wireDownloads();
  showOutputs();
  model = await (await call("/api/model")).json();
  vocabulary = (await (await call("/api/vocabulary")).json()).words;
  known = new Set(vocabulary);
  $("vocabulary").replaceChildren(...vocabulary.slice(0, 6000).map((value) => el("option", { value })));
  document.title = `Studio · ${model.run}`;
  $("run").textContent = model.run;
  $("about").textContent = `${model.checkpoint} · ${model.sides.join(" → ")} pixels · ${vocabulary.length} words · ${model.device}`;
  showExamples();
  state = readFragment();
  showState();
  read();
  if (state.caption) generate();
  if (state.grid) showGrid().catch(complain);
  addEventListener("hashchange", () => { state = readFragment(); showState(); read(); generate(); });
}

start().catch(complain);
