// The page of one job.

import {Live, actHere} from "./live.js";
import {tellTimes} from "./times.js";
import {Viewer} from "./viewer.js";

const head = document.getElementById("part-head");

function take({state}) {
  // A done job has tracks to show; one that runs again has none.
  if ((state === "done") !== (head.dataset.state === "done")) location.reload();
  head.dataset.state = state;
}

tellTimes();
setInterval(tellTimes, 10000);
const live = new Live(head.dataset.news, take, () => ["queued", "running"].includes(head.dataset.state));
actHere(() => live.ask());

const place = document.getElementById("viewer");
if (place) await Viewer.open(place);
