// A slice that can be painted over. data: {name, slice: URL of its PNG, height, width}; state: mask, the URL of a PNG
// as large as the slice, transparent where nothing is painted.
export default function ({ data, parentElement, setStateValue }) {
  const [slice, paint] = parentElement.querySelectorAll("canvas");
  const size = parentElement.querySelector("input");
  const pen = paint.getContext("2d");
  if (paint.dataset.name !== data.name) { // another slice, not the same page again
    paint.dataset.name = data.name;
    for (const canvas of [slice, paint]) [canvas.height, canvas.width] = [data.height, data.width];
    const picture = new Image();
    picture.onload = () => slice.getContext("2d").drawImage(picture, 0, 0);
    picture.src = data.slice;
  }
  pen.fillStyle = "rgb(255, 75, 75)";

  const draw = (event) => {
    const box = paint.getBoundingClientRect();
    const scale = data.width / box.width;
    pen.beginPath();
    pen.arc((event.clientX - box.left) * scale, (event.clientY - box.top) * scale, Number(size.value), 0, 2 * Math.PI);
    pen.fill();
  };
  const tell = () => setStateValue("mask", paint.toDataURL("image/png"));
  paint.onpointerdown = (event) => {
    paint.setPointerCapture(event.pointerId);
    draw(event);
  };
  paint.onpointermove = (event) => event.buttons && event.getCoalescedEvents().forEach(draw);
  paint.onpointerup = tell;
  parentElement.querySelector("button").onclick = () => {
    pen.clearRect(0, 0, data.width, data.height);
    tell();
  };
}
