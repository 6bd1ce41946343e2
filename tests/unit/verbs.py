"""The verbs that a docstring may begin with, in the imperative. A verb that is missing is added here.

Ruff's D401 knows only how a verb that it knows is inflected ("Returns" for "Return"); it lets a docstring
pass that begins with no verb at all ("Of a pilot whose job never ran."). This list is for those.
"""

from __future__ import annotations

_WORDS = """
    Abandon Abort Accept Acknowledge Acquire Act Activate Adapt Add Adjust Admit Adopt Advance Advise
    Aggregate Agree Aim Align Allocate Allow Annotate Announce Answer Append Apply Approve Arrange Ask Assemble
    Assert Assign Attach Attribute Authenticate Authorise Await
    Back Balance Begin Bind Block Book Bound Break Bring Broadcast Build Bundle
    Cache Calculate Call Cancel Cap Capture Carry Cast Catch Change Charge Check Choose Claim Classify
    Clean Clear Climb Clip Clone Close Coerce Collapse Collect Combine Come Command Commit Compare Compile
    Complete Compose Compress Compute Confirm Connect Consider Construct Consume Contain Continue Convert
    Copy Correct Count Cover Create Cross Cut
    Deactivate Deal Decide Declare Decode Decorate Decrement Default Defer Define Delay Delete Deliver
    Demand Deny Derive Describe Deserialise Detach Detect Determine Die Discard Disconnect Discover
    Dispatch Display Distribute Divide Do Download Drain Draw Drive Drop Dump Duplicate
    Edit Empty Enable Encode End Enforce Enqueue Ensure Enter Enumerate Erase Escape Establish Estimate
    Evaluate Evict Examine Exchange Exclude Execute Exercise Exit Expand Expect Expire Explain Export
    Expose Extend Extract
    Fail Fake Fall Feed Fetch File Fill Filter Finalise Find Finish Fire Fit Fix Flag Flush Fold Follow
    Forbid Force Forget Fork Format Forward Free Freeze
    Gather Generate Get Give Go Grant Group Guard Guess
    Halt Hand Handle Hash Have Hear Help Hide Hold Host
    Identify Ignore Import Impose Include Increase Increment Infer Inform Inherit Initialise Inject Insert
    Inspect Install Instantiate Instruct Interleave Interpret Interrupt Introduce Invalidate Invent Invite
    Invoke Isolate Issue Iterate
    Join Judge Jump
    Keep Kill Know
    Label Latch Launch Lay Lead Learn Leave Lend Let Lift Limit Link List Listen Load Locate Lock Log Look
    Lose Lower
    Make Manage Map Mark Match Measure Meet Merge Migrate Mirror Mix Model Mount Move Multiply
    Name Narrow Negotiate Normalise Note Notify Number
    Observe Obtain Offer Open Operate Order Outline Overwrite Own
    Pack Page Park Parse Partition Pass Patch Pause Perform Permit Persist Pick Pin Ping Place Plan Plant
    Play Point Poll Pop Populate Post Preempt Prefix Prepare Present Preserve Press Pretend Prevent Print Probe
    Proceed Process Produce Project Prolong Promise Prompt Propose Protect Prove Provide Prune Publish
    Pull Push Put
    Query Queue Quote
    Raise Rank Rate Reach Read Rebuild Recall Receive Recognise Recompute Reconcile Reconnect Record
    Recover Reduce Refer Refill Refresh Refuse Register Reject Relate Relaunch Relay Release Reload Rely
    Remember Remind Remove Rename Render Renew Reopen Reorder Repair Repeat Replace Replay Reply Report
    Represent Reproduce Request Require Reserve Reset Reshape Resolve Respond Restart Restore Restrict
    Resume Retain Retire Retry Return Reuse Reveal Reverse Revert Review Revive Revoke Ring Rotate Round
    Route Run
    Sample Save Say Scale Scan Schedule Score Scrape Scrub Search See Seed Select Send Separate Serialise
    Serve Set Settle Shape Share Shift Ship Shorten Show Shrink Shut Sign Signal Simulate Sit Skip Sleep
    Smooth Solve Sort Spawn Speak Spell Spend Split Spread Stage Stamp Stand Start State Stay Step Stop
    Store Stream Stretch Strip Submit Subscribe Substitute Subtract Sum Summarise Supervise Supply Support
    Suppose Suspend Swallow Swap Switch Sync Synchronise
    Tag Take Talk Teach Tear Tell Terminate Test Throttle Throw Tick Tie Toggle Touch Trace Track Train
    Transform Translate Transmit Travel Treat Trim Truncate Try Tune Turn Type
    Undo Uninstall Unite Unload Unlock Unpack Unpark Unregister Update Upgrade Upload Use
    Validate Verify View Visit
    Wait Wake Walk Want Warm Warn Watch Weigh Widen Withdraw Withhold Work Wrap Write
    Yield
    """

VERBS = frozenset(_WORDS.split())
