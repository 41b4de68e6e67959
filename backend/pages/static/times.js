// Relative times: "3 minutes ago", with the moment itself on hover.

const WORDS = new Intl.RelativeTimeFormat("en", {numeric: "auto"});
const EXACT = new Intl.DateTimeFormat(undefined, {dateStyle: "medium", timeStyle: "medium"});
const STEPS = [[60, "second"], [60, "minute"], [24, "hour"], [30, "day"], [12, "month"], [Infinity, "year"]];

/** How long ago (or in how long) a moment is, both in milliseconds since 1970. */
export function ago(moment, now = Date.now()) {
  let away = (moment - now) / 1000;
  if (Math.abs(away) < 5) return "just now";
  for (const [size, unit] of STEPS) {
    if (Math.abs(Math.round(away)) < size) return WORDS.format(Math.round(away), unit);
    away /= size;
  }
}

/** Rewrites every <time> below `root`. */
export function tellTimes(root = document) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    const text = ago(moment.getTime());
    if (time.textContent !== text) time.textContent = text;
    time.title = EXACT.format(moment);
  }
}
