"use strict";
// The sliders: one picture of many is shown.
for (const slider of document.querySelectorAll(".slider")) {
  const range = slider.querySelector("input");
  if (!range) continue;
  const frames = slider.querySelectorAll(".frame");
  const [output, button] = [slider.querySelector("output"), slider.querySelector("button")];
  const show = () => {
    frames.forEach((frame, i) => { frame.hidden = i !== Number(range.value); });
    output.textContent = "step " + frames[range.value].dataset.step;
  };
  let timer = 0;
  const stop = () => { clearInterval(timer); timer = 0; button.textContent = "play"; };
  range.addEventListener("input", () => { stop(); show(); });
  button.addEventListener("click", () => {
    if (timer) return stop();
    button.textContent = "stop";
    timer = setInterval(() => { range.value = (Number(range.value) + 1) % frames.length; show(); }, 350);
  });
}
// The charts: what is under the pointer is read from the attributes of the curves.
for (const svg of document.querySelectorAll(".chart svg")) {
  const { from, to, left, right } = Object.fromEntries(Object.entries(svg.dataset).map(([name, value]) => [name, Number(value)]));
  const numbers = (text) => text.split(" ").map(Number);
  const texts = (text) => (text ? text.split(" ") : []);
  const [figure, cursor] = [svg.parentElement, svg.querySelector(".cursor")];
  let curves = null, tip = null;
  const read = () => [...svg.querySelectorAll(".curve")].map((curve) => ({
    name: curve.dataset.name, color: curve.classList[1], steps: numbers(curve.dataset.steps),
    values: texts(curve.dataset.values), means: texts(curve.dataset.means),
  }));
  const nearest = (steps, step) => {
    let [low, high] = [0, steps.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (steps[middle] > step) high = middle; else low = middle;
    }
    return step - steps[low] > steps[high] - step ? high : low;
  };
  const row = (curve, i) => {
    const line = document.createElement("div");
    const swatch = document.createElement("i");
    line.className = curve.color;
    const text = document.createElement("span");
    text.textContent = curve.name + " " + curve.values[i] + (curve.means.length ? " (mean " + curve.means[i] + ")" : "");
    line.append(swatch, text);
    return line;
  };
  svg.addEventListener("pointermove", (event) => {
    curves = curves || read();
    const box = svg.getBoundingClientRect();
    const scale = box.width / svg.viewBox.baseVal.width;
    const share = Math.min(1, Math.max(0, ((event.clientX - box.left) / scale - left) / (right - left)));
    const asked = from + share * (to - from);
    const steps = curves.map((curve) => curve.steps[nearest(curve.steps, asked)]);
    const step = steps.reduce((a, b) => (Math.abs(b - asked) > Math.abs(a - asked) ? a : b));
    const x = left + ((step - from) / (to - from)) * (right - left);
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.style.visibility = "visible";
    tip = tip || figure.appendChild(document.createElement("div"));
    tip.className = "tip";
    const head = document.createElement("div");
    head.textContent = "step " + step;
    tip.replaceChildren(head, ...curves.map((curve) => row(curve, nearest(curve.steps, step))));
    const outer = figure.getBoundingClientRect();
    const at = box.left - outer.left + x * scale;
    tip.style.top = box.top - outer.top + 12 + "px";
    tip.style.left = (share > 0.55 ? at - tip.offsetWidth - 10 : at + 10) + "px";
  });
  svg.addEventListener("pointerleave", () => {
    cursor.style.visibility = "hidden";
    if (tip) tip.remove();
    tip = null;
  });
}
document.documentElement.dataset.ready = "yes";
