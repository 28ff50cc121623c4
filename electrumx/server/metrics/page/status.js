"use strict";

const PERIOD_MSEC = 5000;

async function show() {
  const status = document.getElementById("status");
  try {
    const reply = await fetch("/status.json");
    const report = await reply.json();
    status.textContent = report.status;
    document.getElementById("report").textContent = JSON.stringify(report, null, 2);
  } catch (error) {
    status.textContent = "the server does not answer";
  }
}

show();
setInterval(show, PERIOD_MSEC);
