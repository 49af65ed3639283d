// setup.js is made by web/page_files.py from the settings and locales/*.yaml.
export type Sample = { key: string; file: string; small: string; name: string; author: string; licence: string };
export type Early = { acts: string[]; drops: { entries: FileSystemEntry[]; files: File[] }[]; pastes: File[][] };
declare global {
  interface Window {
    fftEarly?: () => Early; // early.js: what was done before the scripts came; it then leaves everything to them
  }
}
export const setup: {
  strings: Record<string, Record<string, string>>;
  language: string;
  max_file_mib: number;
  preview_px: number;
  weights_offered: boolean;
  has_login: boolean;
  samples: Sample[];
};
