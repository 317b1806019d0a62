(...values) => {
  /* When the query of a sweep changes, cancels the sweep and removes its figures, which would be taken for those of the
     new query. It compares the values, since events come late and twice, and does so in the browser, since a late answer
     of the server could remove the figures of the next sweep. */
  const asked = JSON.stringify(values.map((value) => value?.path ?? value));
  const button = document.getElementById("sweep");
  const update = (changes) => ({ __type__: "update", ...changes });
  if (!button?.dataset.asked || button.dataset.asked === asked) return [update(), update(), update()];
  delete button.dataset.asked;
  document.querySelector("button#sweep_forget, #sweep_forget button").click();
  return ["", update({ visible: false }), update({ value: null, visible: false })];
}
