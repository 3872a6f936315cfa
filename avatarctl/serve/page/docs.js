// Show the OpenAPI document: each operation with what it accepts.

const element = (name, text, ...children) => {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
};

const kind = (schema) => schema?.enum?.join(" | ") || schema?.type || schema?.anyOf?.map(kind).join(" or ") || "";

function table(rows) {
  const head = element("tr", "", element("th", "Name"), element("th", "Kind"), element("th", "What it is"));
  const body = rows.map(([name, type, about]) => element("tr", "", element("td", "", element("code", name)), element("td", type), element("td", about)));
  return element("table", "", element("thead", "", head), element("tbody", "", ...body));
}

const document_ = await (await fetch("/openapi.json")).json();
const place = document.getElementById("operations");
place.replaceChildren();
for (const [path, verbs] of Object.entries(document_.paths)) {
  for (const [verb, about] of Object.entries(verbs)) {
    const part = element("section", "", element("h2", `${verb.toUpperCase()} ${path}`), element("p", about.description || about.summary));
    part.className = "panel";
    if (about.parameters?.length) part.append(table(about.parameters.map((one) => [one.name, `${one.in}, ${kind(one.schema)}`, one.description || ""])));
    const content = about.requestBody?.content || {};
    const form = content["multipart/form-data"] || content["application/json"];
    if (form?.schema?.properties) {
      const rows = Object.entries(form.schema.properties).map(([name, schema]) => [name, schema.format === "binary" ? "file" : kind(schema), schema.description || ""]);
      part.append(element("details", "", element("summary", `Fields of the request (${Object.keys(content).join(" or ")})`), table(rows)));
    }
    place.append(part);
  }
}
