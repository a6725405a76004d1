// Which view is shown, and when it is shown anew.
const EVERY = 2000; // milliseconds between two looks
let shown = {view: "", told: ""};
let missing = null; // the role whose token is asked for

// Show a view. The focus goes to its heading, unless it is the one that is there already.
function show(view, make) {
  const same = shown.view === view;
  shown = {view, told: ""};
  at("view").replaceChildren(...make().filter(Boolean).flat());
  const heading = at("view").querySelector("h1");
  document.title = `${heading.textContent} – ${t("title")}`;
  if (!same) {
    heading.focus({preventScroll: true});
    scrollTo(0, 0);
  }
}

// Show data, unless they are shown already: what has not changed stays, and with it the focus and what was typed.
function refreshed(view, data, make) {
  const told = JSON.stringify(data);
  if (shown.view === view && shown.told === told) return;
  const again = shown.view === view;
  if (again && at("view").querySelector("form textarea:focus, form input:focus")) return;
  const focused = again ? [...at("view").querySelectorAll("a, button, summary")].indexOf(document.activeElement) : -1;
  show(view, () => make(data));
  shown.told = told;
  if (focused >= 0) at("view").querySelectorAll("a, button, summary")[focused]?.focus({preventScroll: true});
  if (again && data.state) say(`${data.name}: ${t(`state_${data.state}`)}`);
}

function trouble(error) {
  showProblem(error);
  if (error instanceof Refusal && error.status === 401) {
    missing = error.role;
    words();
    at("access").hidden = false;
    at("token").focus();
  }
}

async function open() {
  const [, place, name] = location.hash.split("/");
  for (const link of document.querySelectorAll("#nav a")) {
    const current = link.getAttribute("href") === (place === "new" ? "#/new" : "#/") && place !== "requests";
    current ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
  }
  if (place === "new") {
    const desk = await ask("ask", "desk");
    show("new", () => formView(desk));
  } else if (place === "requests" && name) {
    const wanted = decodeURIComponent(name);
    refreshed(`case ${wanted}`, await ask("see", `requests/${encodeURIComponent(wanted)}`), caseView);
  } else {
    refreshed("all", await ask("see", "requests"), allView);
  }
}

async function opened() {
  clearProblem();
  at("access").hidden = true;
  missing = null;
  try {
    await open();
  } catch (error) {
    at("view").replaceChildren();
    shown = {view: "", told: ""};
    trouble(error);
  }
  service();
}

async function service() {
  try {
    const answer = await fetch("health", {headers: tokens.see ? {Authorization: `Bearer ${tokens.see}`} : {}});
    const health = await answer.json();
    const words = answer.ok ? t("service_well", {version: health.version}) : t("service_unwell", {version: health.version});
    if (at("service").textContent !== words) at("service").textContent = words;
  } catch {
    at("service").textContent = t("problem_network");
  }
}

function words() {
  document.documentElement.lang = language;
  for (const one of document.querySelectorAll("[data-text]")) one.textContent = t(one.dataset.text);
  for (const one of document.querySelectorAll("[data-label]")) one.setAttribute("aria-label", t(one.dataset.label));
  for (const one of document.querySelectorAll("[data-language]")) {
    one.setAttribute("aria-pressed", one.dataset.language === language ? "true" : "false");
  }
  if (missing) {
    at("access-title").textContent = t("access_title");
    at("access-why").textContent = t(`access_${missing}`);
  }
}

for (const one of document.querySelectorAll("[data-language]")) {
  one.addEventListener("click", () => {
    language = one.dataset.language;
    kept.set("language", language);
    words();
    shown.told = "";
    opened();
  });
}

at("access").addEventListener("submit", async event => {
  event.preventDefault();
  const token = at("token").value;
  at("token").value = "";
  tokens[missing] = token;
  for (const role of ["ask", "see", "revert"]) tokens[role] ??= token;
  if (missing === "revert" || at("view").childElementCount) { // what was typed stays
    at("access").hidden = true;
    missing = null;
    clearProblem();
    say(t("token_taken"));
    at("view").querySelector("h1").focus();
  } else {
    await opened();
  }
});

at("skip").addEventListener("click", event => {
  event.preventDefault();
  at("main").focus();
});

addEventListener("hashchange", opened);
words();
opened();
setInterval(async () => {
  if (document.hidden || missing || location.hash.startsWith("#/new")) return;
  try {
    await open();
    await service();
  } catch { /* what is shown stays; the next look tries again */ }
}, EVERY);
