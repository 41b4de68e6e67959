// The run-length codes of a job's masks, fetched in chunks of frames and cached.

const KEPT = 8; // chunks

export class Masks {
  constructor(address, atOnce) {
    Object.assign(this, {address, atOnce, stretches: new Map()});
  }

  /** One code or null per track for a frame; a promise while they are loading. */
  at(frame) {
    const number = Math.floor(frame / this.atOnce), place = frame % this.atOnce;
    const held = this.stretch(number);
    if (place > this.atOnce / 2) this.stretch(number + 1);
    const pick = codes => codes.map(track => track[place] ?? null);
    return held instanceof Promise ? held.then(pick) : pick(held);
  }

  stretch(number) {
    if (!this.stretches.has(number)) {
      if (this.stretches.size >= KEPT) this.stretches.delete(this.stretches.keys().next().value);
      this.stretches.set(number, this.fetched(number));
    }
    return this.stretches.get(number);
  }

  async fetched(number) {
    try {
      const answer = await fetch(`${this.address}?start=${number * this.atOnce}`);
      if (!answer.ok) throw new Error(answer.statusText);
      const {tracks} = await answer.json();
      this.stretches.set(number, tracks);
      return tracks;
    } catch (error) {
      this.stretches.delete(number);
      throw error;
    }
  }
}
