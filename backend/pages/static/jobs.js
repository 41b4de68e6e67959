// The list of jobs.

import {Live, actHere, fill} from "./live.js";
import {tellTimes} from "./times.js";

const list = document.getElementById("rows");

function take({rows}) {
  const wanted = new Set(rows.map(row => `job-${row.id}`));
  for (const item of [...list.children]) if (!wanted.has(item.id)) item.remove();
  rows.forEach((row, place) => {
    const item = document.getElementById(`job-${row.id}`) ?? Object.assign(document.createElement("li"), {id: `job-${row.id}`, className: "job"});
    if (list.children[place] !== item) list.insertBefore(item, list.children[place] ?? null);
    if ("html" in row) fill(item, row.html);
  });
  document.getElementById("empty").hidden = rows.length > 0;
}

tellTimes();
setInterval(tellTimes, 10000);
const live = new Live(list.dataset.news, take, () => list.querySelector(".is-queued, .is-running"));
actHere(() => live.ask());

const choose = document.getElementById("choose");
choose.addEventListener("change", () => {
  for (const field of choose.elements) field.disabled = field.value === "";
  choose.submit();
});
// After going back, fields that were left out of the address must be usable again.
addEventListener("pageshow", () => { for (const field of choose.elements) field.disabled = false; });
