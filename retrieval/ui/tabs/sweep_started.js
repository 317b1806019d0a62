(...values) => {
  // Remembers what the sweep was started with, see sweep_forget.js, and sets the last two inputs: the time and the theme.
  const stopped = values.splice(-3)[0];
  document.getElementById("sweep").dataset.asked = JSON.stringify(values.map((value) => value?.path ?? value));
  return [...values, stopped, Date.now(), document.body.classList.contains("dark")];
}
