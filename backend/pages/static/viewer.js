// The track viewer: a video with the masks of each of its frames, in sync with the frame that the browser shows.

import {decode, paint} from "./rle.js";
import {Masks} from "./masks.js";
import {Plot} from "./plot.js";

const SEEK_OFFSET = 0.002; // seconds, as Label Studio's editor adds them: rounding must not show the frame before
const by = id => document.getElementById(id);

export class Viewer {
  /** Fetches the viewer's data and starts it in `place`. */
  static async open(place) {
    const answer = await fetch(place.dataset.tracks);
    if (answer.ok) new Viewer(place, await answer.json());
    else tell("The tracks cannot be loaded. Reload the page.");
  }

  constructor(place, form) {
    this.place = place;
    this.form = form;
    this.last = Math.max(form.frame_count - 1, 0);
    this.times = form.times.length ? form.times : Array.from({length: form.frame_count}, (_, index) => index / form.fps);
    this.stills = Object.keys(form.stills).map(Number).sort((a, b) => a - b);
    this.hidden = new Set();
    this.frame = this.target = 0;
    this.video = by("video");
    this.canvas = by("masks");
    this.canvas.width = form.width;
    this.canvas.height = form.height;
    this.pen = this.canvas.getContext("2d");
    by("picture").style.setProperty("--aspect", form.width / form.height);
    this.masks = new Masks(place.dataset.masks, form.masks_at_once);
    this.plot = new Plot(by("plot"), form, frame => this.seek(frame));
    this.controls();
    this.chooseDoubts();
    this.start();
  }

  /** Plays the video, or shows single pictures if it cannot be played. */
  start() {
    const {video} = this;
    const unplayable = () => this.withoutVideo();
    if (!video.getAttribute("src") || video.error) return unplayable();
    video.addEventListener("error", unplayable);
    video.addEventListener("loadedmetadata", () => { if (!video.videoWidth) unplayable(); });
    for (const event of ["play", "pause", "ended"]) {
      video.addEventListener(event, () => {
        this.place.classList.toggle("is-playing", !video.paused);
        by("play").setAttribute("aria-label", video.paused ? "Play" : "Pause");
      });
    }
    // If a seek ends on the same picture, the browser reports no new frame.
    video.addEventListener("seeked", () => this.show(this.frameAt(video.currentTime)));
    if ("requestVideoFrameCallback" in video) {
      const onFrame = (_, {mediaTime}) => {
        this.show(this.frameAt(mediaTime));
        video.requestVideoFrameCallback(onFrame);
      };
      video.requestVideoFrameCallback(onFrame);
    } else {
      video.addEventListener("timeupdate", () => this.show(this.frameAt(video.currentTime)));
    }
    this.show(0);
  }

  withoutVideo() {
    if (this.place.classList.contains("is-still")) return;
    this.place.classList.add("is-still");
    this.video.hidden = true;
    by("play").disabled = by("speed").disabled = true;
    const pictures = this.stills.length > 0;
    by("still").hidden = !pictures;
    tell(pictures ? "The video cannot be played here, so its stored frames are shown." : "The video cannot be played here, so only the masks are shown.");
    this.seek(pictures ? this.stills[0] : 0);
  }

  get still() {
    return this.place.classList.contains("is-still");
  }

  /** 0-based index of the frame shown at `time` seconds. */
  frameAt(time) {
    let low = 0, high = this.last;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.times[middle] <= time + SEEK_OFFSET) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** Goes to a frame; without a video, to the nearest picture. */
  seek(frame) {
    frame = Math.min(Math.max(frame, 0), this.last);
    if (this.still) {
      if (this.stills.length) {
        frame = this.stills.reduce((best, one) => Math.abs(one - frame) < Math.abs(best - frame) ? one : best);
        by("still").src = this.form.stills[frame];
      }
      this.show(frame);
      return;
    }
    this.video.pause();
    this.target = frame;
    this.video.currentTime = this.times[frame] + SEEK_OFFSET;
  }

  /** One step from the last target, which the browser may not have reached yet. */
  step(frames) {
    const from = this.still || !this.video.seeking ? this.frame : this.target;
    if (!this.still || !this.stills.length) return this.seek(from + frames);
    const place = this.stills.indexOf(from) + Math.sign(frames);
    return this.seek(this.stills[Math.min(Math.max(place, 0), this.stills.length - 1)]);
  }

  toggle() {
    if (this.still) return;
    if (this.video.paused) this.video.play().catch(() => {});
    else this.video.pause();
  }

  /** Updates everything but the picture itself to this frame. */
  show(frame) {
    this.frame = frame;
    const reasons = [...this.reasons.get(frame) ?? []];
    this.form.tracks.forEach(({label, painted}, track) => {
      if (painted.includes(frame) && !this.hidden.has(track)) reasons.push(`${label}: painted by a person`);
    });
    by("where").textContent = `frame ${frame + 1} of ${this.last + 1}`;
    by("when").textContent = `${this.times[frame]?.toFixed(2) ?? "–"} s`;
    this.plot.moveTo(frame, this.times[frame] ?? 0);
    if (by("reason")) by("reason").textContent = reasons.join(" · ");
    this.draw();
  }

  async draw() {
    const {frame} = this;
    if (!this.form.tracks.length) return;
    let codes = this.masks.at(frame);
    if (codes instanceof Promise) {
      this.pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
      try {
        codes = await codes;
      } catch {
        return tell("The masks cannot be loaded. Reload the page.");
      }
      if (frame !== this.frame) return;
    }
    const {width, height} = this.canvas;
    const picture = new ImageData(width, height);
    codes.forEach((counts, track) => {
      if (counts && !this.hidden.has(track)) {
        paint(picture.data, decode(counts, height, width), width, this.form.tracks[track].colour);
      }
    });
    this.pen.putImageData(picture, 0, 0);
    this.canvas.dataset.frame = frame;
  }

  /** The frames to review in the visible tracks, with reasons. */
  chooseDoubts() {
    this.reasons = new Map();
    this.form.tracks.forEach(({label, doubts}, track) => {
      if (this.hidden.has(track)) return;
      for (const {frame, reason} of doubts) this.reasons.set(frame, [...this.reasons.get(frame) ?? [], `${label}: ${reason}`]);
    });
    this.doubts = [...this.reasons.keys()].sort((a, b) => a - b);
    by("doubt-count").textContent = this.doubts.length;
    by("doubt-buttons").hidden = !this.form.tracks.some(track => track.doubts.length);
  }

  nextDoubt(way) {
    const from = this.still || !this.video.seeking ? this.frame : this.target;
    const found = way > 0 ? this.doubts.find(frame => frame > from) : this.doubts.findLast(frame => frame < from);
    if (found !== undefined) this.seek(found);
  }

  setShown(track, shown) {
    if (shown) this.hidden.delete(track);
    else this.hidden.add(track);
    for (const box of document.querySelectorAll(`[data-track="${track}"]`)) box.checked = shown;
    this.chooseDoubts();
    this.plot.hide(this.hidden);
    this.show(this.frame);
  }

  controls() {
    by("play").addEventListener("click", () => this.toggle());
    by("back").addEventListener("click", () => this.step(-1));
    by("on").addEventListener("click", () => this.step(1));
    by("doubt-back").addEventListener("click", () => this.nextDoubt(-1));
    by("doubt-on").addEventListener("click", () => this.nextDoubt(1));
    by("speed").addEventListener("change", event => { this.video.playbackRate = Number(event.target.value); });
    this.canvas.addEventListener("click", () => this.toggle());
    by("tracks")?.addEventListener("change", ({target}) => this.setShown(Number(target.dataset.track), target.checked));
    document.addEventListener("keydown", event => this.key(event));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, textarea")) return;
    const {key} = event;
    if (key === " " && event.target.closest("button, summary, a, input")) return;
    const ways = {
      " ": () => this.toggle(),
      ArrowLeft: () => this.step(event.shiftKey ? -10 : -1),
      ArrowRight: () => this.step(event.shiftKey ? 10 : 1),
      Home: () => this.seek(0),
      End: () => this.seek(this.last),
      j: () => this.nextDoubt(1),
      k: () => this.nextDoubt(-1),
      0: () => this.form.tracks.forEach((_, track) => this.setShown(track, true)),
    };
    if (/^[1-9]$/.test(key) && Number(key) <= this.form.tracks.length) {
      ways[key] = () => this.setShown(Number(key) - 1, this.hidden.has(Number(key) - 1));
    }
    if (!ways[key]) return;
    event.preventDefault();
    ways[key]();
  }
}

function tell(text) {
  by("stage-note").textContent = text;
  by("stage-note").hidden = false;
}
