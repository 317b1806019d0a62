() => {
  // On a phone the results lie below the fold, but a visitor who chose an image wants to see them.
  if (innerWidth > 640 || !navigator.userActivation?.hasBeenActive || !document.querySelector("#query img, #trail img")) return;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  document.getElementById("results").scrollIntoView({ behavior: still ? "auto" : "smooth" });
}
