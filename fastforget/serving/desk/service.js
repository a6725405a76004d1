// Asking the service. Tokens are kept as long as the page is open.
const tokens = {};

class Refusal extends Error {
  constructor(status, detail, role) {
    super(detail);
    this.status = status;
    this.role = role;
  }
}

async function answerOf(role, path, body) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (tokens[role]) headers.Authorization = `Bearer ${tokens[role]}`;
  const options = body === undefined ? {headers} : {method: "POST", headers, body: JSON.stringify(body)};
  const answer = await fetch(path, options);
  if (!answer.ok) {
    const {detail} = await answer.json().catch(() => ({detail: answer.statusText}));
    if (answer.status === 401) delete tokens[role];
    throw new Refusal(answer.status, typeof detail === "string" ? detail : JSON.stringify(detail), role);
  }
  return answer;
}

const ask = async (role, path, body) => (await answerOf(role, path, body)).json();

// Said to a person: in words first, and what the service itself said below.
function problemWords(error) {
  if (!(error instanceof Refusal)) return t("problem_network");
  const known = {401: "problem_token", 403: "problem_forbidden", 404: "problem_missing", 429: "problem_slow", 500: "problem_service"};
  return error.status in known ? t(known[error.status]) : reasonWords(error.message);
}

// A file to keep.
function save(content, type, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], {type}));
  link.download = name.replace(/[^\w.-]/g, "_");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
