// Masks as compressed COCO run-length codes: five bits per character, runs as differences from the one before last,
// column by column. The same format as in trajseg/tracks/rle.py.

/** Lengths of the runs, background first, of the `counts` of a code. Throws a RangeError for an invalid code. */
export function runs(counts) {
  const lengths = [];
  let value = 0, shift = 0;
  for (let place = 0; place < counts.length; place++) {
    const bits = counts.charCodeAt(place) - 48;
    if (bits < 0 || bits > 63) throw new RangeError(`no run-length code has the character at ${place}`);
    value |= (bits & 31) << shift;
    shift += 5;
    if (bits & 32) continue;
    if (bits & 16 && shift < 32) value |= -1 << shift;
    // The first three runs are absolute.
    if (lengths.length > 2) value += lengths[lengths.length - 2];
    lengths.push(value);
    value = shift = 0;
  }
  return lengths;
}

/** The mask of a code as bytes of 0 or 1, row after row. Throws a RangeError if the runs do not fill it. */
export function decode(counts, height, width) {
  const mask = new Uint8Array(height * width);
  let at = 0, inside = false;
  for (const length of runs(counts)) {
    const end = at + length;
    if (length < 0 || end > mask.length) throw new RangeError("the runs do not fill the picture");
    if (inside) {
      // `at` runs down the columns, the bytes are row by row.
      for (let row = at % height, column = (at - row) / height; at < end; at++) {
        mask[row * width + column] = 1;
        if (++row === height) { row = 0; column++; }
      }
    }
    at = end;
    inside = !inside;
  }
  if (at !== mask.length) throw new RangeError("the runs do not fill the picture");
  return mask;
}

const INSIDE = 115; // of 255: the picture below stays visible
const BRIGHTER = 0.5; // share of white in the edge: a red mask on a red object must be visible, too

/** Paints a mask into RGBA pixels of the same size: its inside lightly, its edge fully. `colour` is "#rrggbb". */
export function paint(pixels, mask, width, colour) {
  const height = mask.length / width;
  const plain = [1, 3, 5].map(from => parseInt(colour.slice(from, from + 2), 16));
  const inner = [...plain, INSIDE], edge = [...plain.map(part => part + (255 - part) * BRIGHTER), 255];
  for (let at = 0; at < mask.length; at++) {
    if (!mask[at]) continue;
    const column = at % width, row = (at - column) / width;
    const inside = column > 0 && column < width - 1 && row > 0 && row < height - 1
      && mask[at - 1] && mask[at + 1] && mask[at - width] && mask[at + width];
    pixels.set(inside ? inner : edge, 4 * at);
  }
}
