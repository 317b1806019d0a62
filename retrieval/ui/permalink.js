/* Keeps the address of the page in step with the search, so that it can be saved, shared and opened again. */
const link = element.querySelector("a"), copy = element.querySelector("button");
const status = element.querySelector("[role=status]");

function write() {
  const address = new URL(location.href);
  for (const name of NAMES) address.searchParams.delete(name);
  for (const [name, value] of new URLSearchParams(props.value.address)) address.searchParams.append(name, value);
  history.replaceState(history.state, "", address);
  // Names with two underscores are between the browser and its host, such as a theme or a visitor's signature.
  for (const name of [...address.searchParams.keys()]) if (name.startsWith("__")) address.searchParams.delete(name);
  link.href = address.href;
  status.textContent = props.value.own ? "The link does not include your uploaded image." : "";
  element.classList.toggle("there", Boolean(props.value.address));
}

copy.addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(link.href);
    status.textContent = "Copied.";
  } catch {  // a page without https may not write to the clipboard
    status.textContent = link.href;
  }
});
watch("value", write);
