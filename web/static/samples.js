// Samples: photos to try the page on. They come with the program; who made them is said beside each.

/** @param {{list: HTMLElement, samples: import("./setup.js").Sample[], words: import("./i18n.js").Words, onBegin: () => void, onFile: (file: File) => void, onFailure: () => void}} parts */
export function createSamples({ list, samples, words, onBegin, onFile, onFailure }) {
  let asking = new AbortController();
  const address = (/** @type {string} */ name) => new URL(`./samples/${name}`, import.meta.url).href;

  async function open(/** @type {import("./setup.js").Sample} */ { file, name }) {
    asking.abort(); // pressed again on a slow line, it is still one photo
    const { signal } = (asking = new AbortController());
    onBegin();
    try {
      const answer = await fetch(address(file), { signal });
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      onFile(new File([await answer.blob()], name, { type: "image/jpeg" }));
    } catch {
      if (!signal.aborted) onFailure();
    }
  }

  /** Again in another language. */
  function show() {
    list.replaceChildren(
      ...samples.map((sample) => {
        const button = Object.assign(document.createElement("button"), { type: "button", className: "fft-sample" });
        const what = words.say(`samples.${sample.key}`);
        const credit = words.say("samples.credit", { author: sample.author, licence: sample.licence });
        const picture = Object.assign(new Image(), { src: address(sample.small), alt: "", width: 120, height: 90 });
        button.title = credit;
        button.append(picture, Object.assign(document.createElement("span"), { textContent: what }), Object.assign(document.createElement("small"), { textContent: credit }));
        button.addEventListener("click", () => void open(sample));
        return button;
      }),
    );
  }

  return { show };
}
