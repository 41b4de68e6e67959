// Keeps a page up to date: polls the backend for changed parts and replaces only those.

import {tellTimes} from "./times.js";

const BUSY = 1500, IDLE = 6000, LONGEST = 30000; // milliseconds between two requests

/** Makes `from` like `to`, keeping elements, and with them focus, where they are of the same kind. */
export function morph(from, to) {
  if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName) {
    from.replaceWith(to.cloneNode(true));
    return;
  }
  if (from.nodeType !== Node.ELEMENT_NODE) {
    if (from.data !== to.data) from.data = to.data;
    return;
  }
  // An open confirmation stays open as long as its text is the same.
  const asked = from.nodeName === "DETAILS" && from.textContent.trim() === to.textContent.trim();
  for (const {name} of [...from.attributes]) if (!to.hasAttribute(name) && !(asked && name === "open")) from.removeAttribute(name);
  for (const {name, value} of to.attributes) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  morphChildren(from, to);
}

function morphChildren(from, to) {
  const old = [...from.childNodes], wanted = [...to.childNodes];
  wanted.forEach((node, place) => place < old.length ? morph(old[place], node) : from.append(node.cloneNode(true)));
  old.slice(wanted.length).forEach(node => node.remove());
}

/** Replaces the content of `element` with HTML that the backend has escaped. */
export function fill(element, html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  morphChildren(element, template.content);
  tellTimes(element);
}

/** Polls `address` while the page is visible; `take` gets each answer, `busy` decides how often. */
export class Live {
  constructor(address, take, busy) {
    Object.assign(this, {address, take, busy, marks: new Map(), tag: "", failures: 0, timer: 0});
    document.addEventListener("visibilitychange", () => document.hidden ? this.stop() : this.ask());
    this.wait();
  }

  stop() {
    clearTimeout(this.timer);
  }

  wait() {
    this.stop();
    const pause = this.failures ? Math.min(BUSY * 2 ** this.failures, LONGEST) : this.busy() ? BUSY : IDLE;
    if (!document.hidden) this.timer = setTimeout(() => this.ask(), pause);
  }

  async ask() {
    this.stop();
    const address = new URL(this.address, location.href);
    address.searchParams.set("have", [...this.marks.values()].join("."));
    try {
      const answer = await fetch(address, {headers: this.tag ? {"If-None-Match": this.tag} : {}, cache: "no-store"});
      if (answer.status !== 304) {
        const news = await answer.json();
        if (!answer.ok) throw new Error(news.error);
        this.tag = answer.headers.get("ETag") ?? "";
        this.note(news);
        this.take(news);
      }
      this.failures = 0;
    } catch (error) {
      this.failures++;
    }
    document.documentElement.toggleAttribute("data-stale", this.failures > 1);
    this.wait();
  }

  note({parts, rows}) {
    this.marks = new Map([...Object.entries(parts), ...rows.map(row => [row.id, row])].map(([name, part]) => [name, part.mark]));
    for (const [name, part] of Object.entries(parts)) {
      if ("html" in part) fill(document.getElementById(`part-${name}`), part.html);
    }
  }
}

/** Runs cancel and retry without leaving the page; `done` is called after the backend's answer. */
export function actHere(done) {
  document.addEventListener("submit", async event => {
    if (event.target.id !== "act") return;
    event.preventDefault();
    const button = event.submitter;
    button.disabled = true;
    try {
      const answer = await fetch(button.formAction, {
        method: "POST", body: new URLSearchParams(new FormData(event.target)), headers: {Accept: "application/json"},
      });
      const form = await answer.json();
      say(answer.ok ? form.said ?? `${button.textContent.trim()}: the job is ${form.state}.` : `${form.error} ${form.remedy}`, !answer.ok);
    } catch (error) {
      say("The backend does not answer.", true);
    }
    button.disabled = false;
    done();
  });
}

let quiet = 0;

/** Shows a message at the bottom of the page for a few seconds. */
export function say(text, bad = false) {
  const place = document.getElementById("said");
  place.textContent = text;
  place.classList.toggle("is-bad", bad);
  place.classList.add("is-shown");
  clearTimeout(quiet);
  quiet = setTimeout(() => place.classList.remove("is-shown"), bad ? 10000 : 4000);
}
