// File faults: what is wrong with files before anything is sent, and which refusals of an upload speak of the file.

import { isPicture } from "./file_input.js";

/** @typedef {import("./store.js").Note} Note */
/** @typedef {{file: File, name: string, fault: Note | null}} Judged */

// No file is the reason for these: the same one may be taken later, after a login or when there is room on the disk.
const NOT_OF_THE_FILE = new Set(["upload_failed", "login_required", "disk_full", "storage_unavailable", "data_dir_in_use", "busy", "starting", "server_error"]);

/** Whether the file would be refused again. @param {Pick<Note, "code">} refusal of an upload */
export const isOfTheFile = ({ code }) => !NOT_OF_THE_FILE.has(code);

/** @param {File[]} files @param {number} max_mib @param {string} pasted the name of what has none @returns {Judged[]} */
export function judged(files, max_mib, pasted) {
  return files.map((file) => {
    const name = file.name || pasted;
    // A single file is tried whatever it is called.
    const isOther = files.length > 1 && !isPicture(file);
    return { file, name, fault: isOther ? { code: "not_an_image", params: { name } } : sizeFault(file, name, max_mib) };
  });
}

/** @param {File} file @param {string} name @param {number} max_mib @returns {Note | null} */
function sizeFault(file, name, max_mib) {
  if (file.size === 0) return { code: "empty_file", params: { name } };
  if (file.size > max_mib * 2 ** 20) return { code: "file_too_large", params: { name, max_mib } };
  return null;
}
