// Pictures to ask with: chosen, dropped, pasted, or of the index.

const MOST_BYTES = 20e6; // of a picture's file, which grows by a third on its way
class Unreadable extends Error {}

// A picture is {name, source, file} or, of the index, {name, source, id}.
function makeSlot(part, { most, what, changed }) {
  const place = byId(part).querySelector(".slot"), form = place.closest("form");
  const list = h("ul", { "aria-label": `Pictures to ${part} with` }), held = [];
  const input = h("input", { type: "file", accept: "image/*", multiple: most > 1, hidden: true, onchange: () => {
    add([...input.files]);
    input.value = "";
  } });
  const choose = h("button", { type: "button", onclick: () => input.click() }, what);
  place.append(list, choose, input, h("p", { class: "hint" }, "or drop it here, or paste it"));

  const draw = () => {
    list.replaceChildren(...held.map((picture) => h("li", {}, picture.source ? h("img", { class: "thumb", src: picture.source, alt: "" }) : null,
      h("span", { class: "name", title: picture.name }, picture.name),
      h("button", { type: "button", "aria-label": `Remove ${picture.name}`, onclick: () => remove(picture) }, "×"))));
  };
  const free = (picture) => picture.file && URL.revokeObjectURL(picture.source);
  const put = (pictures) => {
    held.push(...pictures);
    while (held.length > most) free(held.shift()); // the newest stay
    draw();
    changed();
  };
  const add = (files) => {
    const isPicture = (file) => !file.type || file.type.startsWith("image/");
    const chosen = files.filter(isPicture), others = files.filter((file) => !isPicture(file));
    if (chosen.length) put(chosen.map((file) => ({ name: file.name || "pasted picture", file, source: URL.createObjectURL(file) })));
    byId(part).querySelector(".problem").textContent = others.length ? `No picture: ${others.map((file) => file.name).join(", ")}` : "";
  };
  const remove = (picture) => {
    held.splice(held.indexOf(picture), 1);
    free(picture);
    draw();
    choose.focus();
    changed();
  };
  const over = (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    place.classList.add("over");
  };
  form.addEventListener("dragover", over);
  form.addEventListener("dragleave", () => place.classList.remove("over"));
  form.addEventListener("drop", (event) => {
    place.classList.remove("over");
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    add([...event.dataTransfer.files]);
  });
  slots[part] = { held, add, put };
  return slots[part];
}

function pasted(event) {
  const files = [...event.clipboardData.files];
  if (!files.length) return;
  event.preventDefault();
  slots[partShown()].add(files);
}

// A picture of a file as requests have it, with the name that reasons call it by.
const named = async (picture) => ({ image: await contentOf(picture), name: picture.name });

// A picture's file as requests have it; what kind it is the service finds out.
function contentOf({ file, name }) {
  return new Promise((give, refuse) => {
    if (file.size > MOST_BYTES) {
      refuse(new Unreadable(`${name}: ${(file.size / 1e6).toFixed(0)} MB, of at most ${MOST_BYTES / 1e6}`));
      return;
    }
    const reader = new FileReader();
    reader.onload = () => give(`data:image/any;base64,${reader.result.slice(reader.result.indexOf(",") + 1)}`);
    reader.onerror = () => refuse(new Unreadable(`${name} cannot be read any more`));
    reader.readAsDataURL(file);
  });
}
