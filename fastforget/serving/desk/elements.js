// Making elements. All texts go in as text, never as HTML.
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter(child => child !== null && child !== undefined && child !== false));
  return made;
}

const at = id => document.getElementById(id);
const button = (text, click, kind = "") => el("button", {type: "button", class: kind || null, onclick: click}, text);
const list = items => el("ul", {}, items.map(item => el("li", {}, item)));
const section = (id, title, ...children) =>
  el("section", {"aria-labelledby": id}, el("h2", {id}, title), ...children);
const facts = pairs => el("dl", {}, pairs.filter(([, value]) => value).flatMap(([name, value]) =>
  [el("dt", {}, name), el("dd", {}, value)]));
const own = text => el("details", {}, el("summary", {}, t("own_words")), el("p", {lang: "en"}, el("code", {}, text)));

// A labelled field; `problem` shows what is wrong with it, where a screen reader finds it.
function field(id, label, hint, attributes = {}, tag = "input") {
  const hints = `${id}-hint ${id}-wrong`;
  const input = el(tag, {id, "aria-describedby": hints, ...(tag === "input" ? {type: "text"} : {}), ...attributes});
  const wrong = el("p", {id: `${id}-wrong`, class: "wrong"});
  return {
    input,
    parts: [el("label", {for: id}, label), el("p", {id: `${id}-hint`, class: "hint"}, hint), input, wrong],
    problem(text) {
      wrong.textContent = text;
      input.setAttribute("aria-invalid", text ? "true" : "false");
      if (text) input.focus();
    },
  };
}

function say(text) {
  at("status").textContent = text;
}

function showProblem(error) {
  const words = problemWords(error);
  const detail = error instanceof Refusal && ![401, 403, 404, 429].includes(error.status) ? own(error.message) : null;
  at("problem").replaceChildren(...[el("p", {}, words), detail].filter(Boolean));
}

function clearProblem() {
  at("problem").replaceChildren();
}
