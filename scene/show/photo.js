// From a file, the clipboard or a camera to a photo that the server accepts.

import {find} from "./elements.js";

const LONGEST = 2048;           // pixels of the longer side of a photo that was shrunk: the network sees far fewer
const MOST_PIXELS = 6e6;        // of a photo that is sent as it is
const MOST_BYTES = 4e6;

// The photo to send. A large one, or one of a format that the server does not read, is drawn anew: smaller, upright
// (the browser applies EXIF's orientation), on white, as JPEG. What the browser cannot read goes as it is, so that
// the server says what is wrong with it.
export async function prepare(file, formats) {
    let picture;
    try {
        picture = await createImageBitmap(file, {imageOrientation: "from-image"});
    } catch {
        return file;
    }
    const {width, height} = picture;
    const fits = formats.includes(file.type) && file.size <= MOST_BYTES && width * height <= MOST_PIXELS;
    if (fits || await isCutOff(file)) {
        picture.close();
        return file;
    }
    const scale = Math.min(1, LONGEST / Math.max(width, height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    picture.close();
    return new Promise(resolve => canvas.toBlob(resolve, "image/jpeg", 0.92));
}

// Whether a JPEG lacks its end marker. Browsers show the half that is there.
async function isCutOff(file) {
    if (file.type !== "image/jpeg") return false;
    const bytes = new Uint8Array(await file.arrayBuffer());
    for (let i = bytes.length - 2; i >= 0; i--) {
        if (bytes[i] === 0xff && bytes[i + 1] === 0xd9) return false;
    }
    return true;
}

// The bytes of a file in base64, as a data URL.
export const encode = file => new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
});

// Calls take(file) for each photo that is dropped, chosen, pasted or taken, and say(sentence) if that fails.
export function listen(take, say) {
    const drop = find("drop");
    for (const input of document.querySelectorAll("input[type=file]")) {
        input.addEventListener("change", () => {
            if (input.files.length) take(input.files[0]);
            input.value = "";                               // so that the same file can be chosen again
        });
    }
    const given = (data, event) => {
        const file = [...data.files][0];
        if (file) {
            event.preventDefault();
            take(file);
        }
        return file;
    };
    addEventListener("dragover", event => {
        event.preventDefault();                             // else the browser would open what is dropped
        drop.classList.add("over");
    });
    addEventListener("dragleave", event => event.relatedTarget || drop.classList.remove("over"));
    addEventListener("drop", event => {
        event.preventDefault();
        drop.classList.remove("over");
        given(event.dataTransfer, event) || say("That was not a file. Save the picture first, then drop it here.");
    });
    addEventListener("paste", event => given(event.clipboardData, event));
    find("phone").hidden = !matchMedia("(pointer: coarse)").matches;
    listenToCamera(take, say);
}

// The webcam. Browsers offer it on localhost, and elsewhere only with HTTPS.
function listenToCamera(take, say) {
    const video = find("video");
    const close = () => {
        for (const track of video.srcObject ? video.srcObject.getTracks() : []) track.stop();
        video.srcObject = null;
        find("camera").hidden = true;
        find("webcam").focus();
    };
    find("webcam").hidden = !(isSecureContext && navigator.mediaDevices);
    find("webcam").addEventListener("click", async () => {
        try {
            video.srcObject = await navigator.mediaDevices.getUserMedia({video: {facingMode: "environment"}});
            find("camera").hidden = false;
            find("shoot").focus();
        } catch (error) {
            say(error.name === "NotAllowedError" ? "The browser may not use the camera. Allow it, then try again."
                : "There is no camera that the browser can use. Choose a photo instead.");
        }
    });
    find("cancel").addEventListener("click", close);
    find("shoot").addEventListener("click", () => {
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
        canvas.getContext("2d").drawImage(video, 0, 0);
        canvas.toBlob(photo => {
            close();
            photo ? take(photo) : say("The camera has not shown a picture yet. Try again.");
        }, "image/jpeg", 0.92);
    });
}
