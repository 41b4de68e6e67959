// Scores over time, one line per track; rings mark frames to review, squares painted ones. Click or drag to go to a frame.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 116, TOP = 12, BOTTOM = 12, SIDE = 24; // CSS pixels

export class Plot {
  constructor(place, form, seek) {
    Object.assign(this, {place, form, hidden: new Set(), frame: 0, last: Math.max(form.frame_count - 1, 1)});
    this.svg = place.appendChild(make("svg", {height: HEIGHT, "aria-hidden": "true"}));
    place.setAttribute("aria-valuemax", form.frame_count);
    const goTo = event => {
      const {left} = place.getBoundingClientRect();
      const share = (event.clientX - left - SIDE) / (this.width - 2 * SIDE);
      seek(Math.round(Math.min(Math.max(share, 0), 1) * (form.frame_count - 1)));
    };
    place.addEventListener("pointerdown", event => {
      if (event.button !== 0) return;
      place.setPointerCapture(event.pointerId);
      goTo(event);
    });
    place.addEventListener("pointermove", event => { if (place.hasPointerCapture(event.pointerId)) goTo(event); });
    new ResizeObserver(() => this.draw()).observe(place);
  }

  get width() {
    return this.place.clientWidth;
  }

  x(frame) {
    return SIDE + frame / this.last * (this.width - 2 * SIDE);
  }

  y(score) {
    return HEIGHT - BOTTOM - score * (HEIGHT - TOP - BOTTOM);
  }

  hide(tracks) {
    this.hidden = tracks;
    this.draw();
  }

  draw() {
    this.svg.setAttribute("width", this.width);
    this.svg.replaceChildren();
    for (const [score, kind] of [[0, "edge"], [0.5, "half"], [1, "edge"]]) {
      if (kind === "edge") this.add("text", {class: "tick", x: SIDE - 8, y: this.y(score) + 4}).textContent = score;
      this.add("line", {class: `level ${kind}`, x1: SIDE, x2: this.width - SIDE, y1: this.y(score), y2: this.y(score)});
    }
    const shown = this.form.tracks.filter((_, track) => !this.hidden.has(track));
    for (const {scores, colour} of shown) this.add("path", {class: "scores", d: this.path(scores), stroke: colour});
    for (const {scores, painted, colour} of shown) {
      for (const frame of painted) {
        this.add("rect", {class: "painted", x: this.x(frame) - 3.5, y: this.y(scores[frame] ?? 0) - 3.5, width: 7, height: 7, fill: colour});
      }
    }
    for (const {scores, doubts} of shown) {
      for (const {frame} of doubts) this.add("circle", {class: "doubt", cx: this.x(frame), cy: this.y(scores[frame] ?? 0), r: 4});
    }
    this.cursor = this.add("path", {class: "cursor"});
    this.moveTo(this.frame, 0);
  }

  path(scores) {
    let line = "", drawing = false;
    scores.forEach((score, frame) => {
      if (score !== null) line += `${drawing ? "L" : "M"}${this.x(frame).toFixed(1)} ${this.y(score).toFixed(1)}`;
      // A single frame would be a line of zero length.
      if (score !== null && !drawing) line += "h.1";
      drawing = score !== null;
    });
    return line;
  }

  moveTo(frame, time) {
    this.frame = frame;
    const x = this.x(frame).toFixed(1);
    this.cursor?.setAttribute("d", `M${x} 0V${HEIGHT}`);
    this.place.setAttribute("aria-valuenow", frame + 1);
    this.place.setAttribute("aria-valuetext", `frame ${frame + 1} of ${this.form.frame_count}, ${time.toFixed(2)} seconds`);
  }

  add(name, attributes) {
    return this.svg.appendChild(make(name, attributes));
  }
}

function make(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
