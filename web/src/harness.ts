// The published client SDK, put where browser tests can reach it. Nothing of ours is between the tests and the SDK.
import * as livekit from "livekit-client";

declare global {
  interface Window {
    livekit: typeof livekit;
  }
}

window.livekit = livekit;
