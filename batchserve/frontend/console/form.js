// The form that sends a real request, made from the model's signature.

const MOST_SHOWN = 2048;      // values in a text field; more are made when the request is sent
const MOST_SENT = 1 << 20;    // elements of a request; beyond that JSON is the wrong form

class TryForm {
  constructor() {
    this.form = document.getElementById("try");
    this.inputs = document.getElementById("try-inputs");
    this.note = document.getElementById("try-note");
    this.answer = document.getElementById("answer");
    this.copied = document.getElementById("copied");
    this.fields = [];
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.send(); });
    document.getElementById("copy").addEventListener("click", () => this.copy());
  }

  // Make the fields of a model; what was typed stays as long as it is the same model.
  show(model) {
    this.model = model;
    this.fields = [];
    this.answer.replaceChildren();
    this.copied.textContent = "";
    this.inputs.replaceChildren();
    const cannot = !model.inputs ? "This model does not serve now." : model.is_json ? ""
      : "This model has tensors without a JSON form (FP16); use a client that sends binary tensors, such as tritonclient.";
    this.note.textContent = cannot;
    this.note.hidden = !cannot;
    this.form.hidden = Boolean(cannot);
    if (cannot) return;
    model.inputs.forEach((input, index) => {
      const field = new InputField(input, model.sample ? model.sample[index] : null, model.is_batching, index);
      this.fields.push(field);
      this.inputs.append(field.node);
    });
    // The rows of all inputs are one number: a request whose inputs disagree is refused.
    const rows = this.fields.map((field) => field.axes[0]).filter((axis) => axis instanceof HTMLInputElement);
    if (model.is_batching) for (const axis of rows) axis.addEventListener("input", () => {
      for (const other of rows) if (other !== axis) { other.value = axis.value; other.dispatchEvent(new Event("sync")); }
    });
  }

  path() { return `v2/models/${encodeURIComponent(this.model.name)}/versions/${this.model.version}/infer`; }

  body() { return `{"inputs": [${this.fields.map((field) => field.json()).join(", ")}]}`; }

  async send() {
    const button = document.getElementById("send");
    button.disabled = true;
    try {
      const body = this.body();
      const start = performance.now();
      const response = await fetch(this.path(), {method: "POST", body, headers: {"Content-Type": "application/json", "X-Server-Timing": "1"}});
      const text = await response.text();
      this.showAnswer(response, text, performance.now() - start);
    } catch (error) {
      this.answer.replaceChildren(html("p", {class: "note"}, String(error.message || error)));
    } finally {
      button.disabled = false;
    }
  }

  showAnswer(response, text, took) {
    const parts = [], value = JSON.parse(text);
    const facts = html("p", {class: "timing"},
      html("span", {id: "answer-status", class: `pill ${response.ok ? "good" : "bad"}`}, `${response.status}`),
      html("span", {}, "in the browser ", html("b", {}, `${short(took)} ms`)));
    const rows = response.headers.get("X-Batch-Rows"), id = response.headers.get("X-Request-Id");
    if (rows) facts.append(html("span", {}, "rows in its batch ", html("b", {}, rows)));
    if (id) facts.append(html("span", {}, "request ", html("b", {}, id)));
    parts.push(facts);
    const timing = readServerTiming(response.headers.get("Server-Timing") || "");
    if (timing.length) {
      const total = timing.find((part) => part[0] === "total");
      const box = html("div", {id: "server-timing"}, html("p", {class: "small"}, "In the server ", html("b", {}, `${short(total ? total[1] : 0)} ms`), html("span", {class: "faint"}, " (Server-Timing)")));
      box.append(...stackBar(timing.filter((part) => part[0] !== "total"), "ms", "Time in the server", true));
      parts.push(box);
    }
    if (value.error) parts.push(html("p", {class: "note", id: "answer-error"}, value.error));
    for (const output of value.outputs || []) {
      parts.push(html("div", {}, html("b", {}, output.name), html("span", {class: "faint"}, ` ${output.datatype} [${output.shape.join(", ")}]`),
        html("pre", {class: "output", tabindex: "0"}, shown(output.data))));
    }
    this.answer.replaceChildren(...parts);
  }

  async copy() {
    let line;
    try { line = `curl -s ${location.origin}/${this.path()} -H 'X-Server-Timing: 1' -d '${this.body().replaceAll("'", "'\\''")}'`; }
    catch (error) { this.copied.textContent = String(error.message); return; }
    try {
      await navigator.clipboard.writeText(line);
      this.copied.textContent = "Copied";
    } catch {
      this.answer.replaceChildren(html("pre", {tabindex: "0"}, line));
      this.copied.textContent = "The clipboard is not allowed here; the line is below";
    }
  }
}

class InputField {
  constructor(input, sample, isBatching, number) {
    this.input = input;
    this.sample = sample;
    const fields = html("div", {class: "fields"});
    const initial = sample ? sample.shape : input.shape.map((size) => (size < 0 ? 1 : size));
    this.axes = input.shape.map((size, axis) => {
      if (size >= 0) return size;
      const name = axis === 0 && isBatching ? "rows" : `axis ${axis}`;
      const box = html("input", {type: "number", min: "1", max: "100000", value: String(initial[axis] || 1), id: `axis-${number}-${axis}`});
      for (const kind of ["input", "sync"]) box.addEventListener(kind, () => this.refresh());
      fields.append(html("label", {}, name, box));
      return box;
    });
    const ways = [];
    if (sample && sample.data) ways.push(["sample", "a sample"]);
    if (input.datatype !== "BYTES") ways.push(["random", "random"], ["zero", "zeros"], ["one", "ones"]);
    ways.push(["typed", "as typed"]);
    this.way = html("select", {id: `fill-${number}`}, ...ways.map(([value, text]) => html("option", {value}, text)));
    this.way.addEventListener("change", () => this.refresh());
    fields.append(html("label", {}, "values", this.way));
    this.text = html("textarea", {id: `values-${number}`, spellcheck: "false", autocomplete: "off", "aria-label": `Values of ${input.name}, as JSON`});
    this.text.addEventListener("input", () => { this.way.value = "typed"; });
    this.node = html("fieldset", {}, html("legend", {}, input.name, html("span", {class: "faint"}, ` ${input.datatype} [${input.shape.join(", ")}]`)), fields,
      html("div", {class: "values"}, this.text));
    this.refresh();
  }

  shape() { return this.axes.map((axis) => (typeof axis === "number" ? axis : Math.max(1, Math.floor(Number(axis.value)) || 1))); }

  refresh() {
    const count = this.shape().reduce((product, size) => product * size, 1);
    const isShown = count <= MOST_SHOWN;
    if (this.way.value !== "typed") this.text.value = isShown ? JSON.stringify(this.values(count)) : "";
    this.text.disabled = !isShown && this.way.value !== "typed";
    this.text.placeholder = isShown ? "[1, 2, 3]" : `${whole(count)} values are made when the request is sent`;
  }

  values(count) {
    const kind = this.input.datatype;
    if (count > MOST_SENT) throw new Error(`${whole(count)} values are too many for JSON: choose a smaller shape, or a client that sends binary tensors`);
    if (this.way.value === "sample") return Array.from({length: count}, (_, index) => this.sample.data[index % this.sample.data.length]);
    const make = {
      zero: () => 0, one: () => 1,
      random: () => (kind === "BOOL" ? Math.random() < 0.5 : kind.startsWith("FP") ? Math.round(Math.random() * 1e4) / 1e4 : Math.floor(Math.random() * 2)),
    }[this.way.value] || (() => 0);
    return Array.from({length: count}, () => (kind === "BOOL" ? Boolean(make()) : make()));
  }

  // Typed text goes out as it is, so that integers beyond 2^53 keep their digits.
  json() {
    const shape = this.shape();
    const count = shape.reduce((product, size) => product * size, 1);
    let data = this.text.value.trim();
    if (this.way.value === "typed") {
      try { JSON.parse(data); } catch (error) { throw new Error(`the values of ${this.input.name} are not JSON: ${error.message}`); }
    } else {
      data = JSON.stringify(this.values(count));
    }
    return `{"name": ${JSON.stringify(this.input.name)}, "datatype": "${this.input.datatype}", "shape": [${shape.join(", ")}], "data": ${data}}`;
  }
}

function readServerTiming(header) {
  return header.split(",").map((part) => part.trim().match(/^(\w+);dur=([0-9.]+)$/)).filter(Boolean).map((found) => [found[1], Number(found[2])]);
}

function shown(data) {
  const text = JSON.stringify(data.slice(0, 200)).replaceAll(",", ", ");
  return data.length > 200 ? `${text.slice(0, -1)}, … ${whole(data.length - 200)} more]` : text;
}
