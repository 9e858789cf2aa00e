-- A worker is stopped from anywhere: its terminal may be gone, and its host out of reach.
ALTER TABLE embedtui.worker ADD COLUMN stop_wanted boolean NOT NULL DEFAULT false;
